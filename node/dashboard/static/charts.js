// Curves as inline drawings. Each says in words what it shows, for who does not see it.

import { count, h, svg } from "./dom.js";

const WIDEST = 720, HEIGHT = 200, LEFT = 48, RIGHT = 12, TOP = 12, BOTTOM = 26;

/** A scale from values to pixels; one value alone lies in the middle. */
function scale(values, from, to) {
  const low = Math.min(...values), high = Math.max(...values);
  const span = high - low;
  return Object.assign((value) => (span ? from + ((value - low) / span) * (to - from) : (from + to) / 2), { low, high });
}

const path = (points, x, y) => points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");

/**
 * Loss over steps.
 * @param lines [{label, points: [[step, loss]], kind}]: drawn as a line
 * @param marks [{label, points: [[step, loss]], kind}]: drawn as single marks
 * @param widest pixels; a narrow window makes it narrower, and its words stay as large as the page's
 */
export function lossChart(title, lines, marks = [], widest = WIDEST) {
  const WIDTH = Math.max(260, Math.min(widest, innerWidth - 70));
  const all = [...lines, ...marks].flatMap((series) => series.points);
  if (!all.length) return null;
  const x = scale(all.map(([step]) => step), LEFT, WIDTH - RIGHT);
  const y = scale(all.map(([, value]) => value), HEIGHT - BOTTOM, TOP);
  const ticks = y.high > y.low ? [y.low, (y.low + y.high) / 2, y.high] : [y.low];
  const parts = [
    ...ticks.map((value) => svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) })),
    ...ticks.map((value) => svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(3))),
    svg("text", { x: x(x.low), y: HEIGHT - 6, "text-anchor": x.high > x.low ? "start" : "middle" }, `step ${count(x.low)}`),
    x.high > x.low && svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, count(x.high)),
    ...lines.map(({ points, kind }) => svg("path", { class: `line ${kind}`, d: path(points, x, y) })),
    ...lines.filter(({ points }) => points.length < 40).flatMap(({ points, kind }) =>
      points.map(([step, value]) => svg("circle", { class: `dot ${kind}`, cx: x(step), cy: y(value), r: 2.5 }))),
    ...marks.flatMap(({ label, points, kind }) => points.map(([step, value]) =>
      svg("circle", { class: `mark ${kind}`, cx: x(step), cy: y(value), r: 5 }, svg("title", {}, `${label}: ${value.toFixed(4)} at step ${count(step)}`)))),
  ];
  const words = [...lines, ...marks].filter(({ points }) => points.length).map(({ label, points }) =>
    `${label}: ${points.length} points, ${points.at(-1)[1].toFixed(4)} at step ${count(points.at(-1)[0])}`);
  const drawing = svg("svg", { width: WIDTH, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${words.join("; ")}` }, parts);
  const drawn = [...lines, ...marks].filter(({ points }) => points.length);
  const legend = drawn.length > 1 && drawn.map(({ label, kind }) => h("li", { class: kind }, label));
  return h("figure", { class: "chart" }, h("figcaption", {}, title, legend && h("ul", { class: "legend" }, legend)), drawing);
}

/** The shape of a curve beside a number that says the same. */
export function sparkline(points) {
  if (points.length < 2) return null;
  const x = scale(points.map(([step]) => step), 1, 63), y = scale(points.map(([, value]) => value), 17, 3);
  return svg("svg", { class: "spark", viewBox: "0 0 64 20", "aria-hidden": "true" }, svg("path", { class: "line claimed", d: path(points, x, y) }));
}

/** Who drew which step: from noise (left) to picture, each step a bar of its experts' weights. */
export function routingStrip(routing) {
  const steps = Array.isArray(routing?.steps) ? routing.steps.slice(0, 400) : [];
  if (!steps.length) return null;
  const bars = steps.flatMap((weights, number) => {
    let above = 0;
    return Object.entries(weights).map(([expert, weight]) => {
      const bar = svg("rect", { class: `expert e${Number(expert) % 8}`, x: number, y: above, width: 0.86, height: Math.max(0, Number(weight)) });
      above += Number(weight);
      return bar;
    });
  });
  const parts = new Map();
  for (const weights of steps) for (const [expert, weight] of Object.entries(weights)) parts.set(expert, (parts.get(expert) ?? 0) + Number(weight) / steps.length);
  const shares = [...parts].sort((a, b) => b[1] - a[1]);
  const words = shares.map(([expert, share]) => `expert ${expert} ${Math.round(share * 100)} %`).join(", ");
  return h("div", { class: "routing" },
    svg("svg", { viewBox: `0 0 ${steps.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `Who drew which of ${steps.length} steps: ${words}` }, bars),
    h("ul", { class: "legend" }, shares.slice(0, 8).map(([expert, share]) => h("li", { class: `e${Number(expert) % 8}` }, `expert ${expert}: ${Math.round(share * 100)} %`))));
}
