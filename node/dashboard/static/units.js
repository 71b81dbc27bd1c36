// The run and its units: who trains what, how far, how good, and how it came to be.

import { lossChart, sparkline } from "./charts.js";
import { ago, byId, copyable, count, duration, h, loss, show, tinted, who } from "./dom.js";

const STATES = { complete: "complete", training: "training", stalled: "stalled", unclaimed: "unclaimed" };
const open = new Set();

export function showRun(run, picture) {
  const facts = picture && [picture.name, picture.about, picture.curators, picture.head, picture.troubles, progress(picture), Object.keys(picture.peers).length];
  show(byId("run"), [run.run, facts], () => (picture ? runCard(run, picture) : unknownRun(run)));
}

function unknownRun(run) {
  const words = run.trouble ? "Nothing of this run was seen yet." : "Looking at the network …";
  return [h("h1", {}, "A run"), copyable(run.run, "the run key"), h("p", { class: "empty" }, words)];
}

function progress(picture) {
  const sum = (name) => picture.units.reduce((total, unit) => total + unit[name], 0);
  return { step: sum("step"), target: sum("target"), complete: picture.units.filter((unit) => unit.state === "complete").length, units: picture.units.length };
}

function runCard(run, picture) {
  const { step, target, complete, units } = progress(picture);
  const { about } = picture, peers = Object.keys(picture.peers).length;
  const facts = [
    ["trained", `${percent(step, target)}, ${complete} of ${units} units complete`],
    ["peers", peers ? count(peers) : "nobody has announced itself"],
    ["model", `${about.model}, starts from ${about.start === "scratch" ? "nothing" : `a ${about.start}`}`],
    ["data", `${about.data}, ${count(about.samples)} samples`],
    ["curators", picture.curators],
  ];
  return [
    h("h1", {}, picture.name),
    h("p", { class: "key" }, copyable(picture.run, "the run key")),
    meter(step, target, "the whole run"),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    picture.troubles.length > 0 && h("div", { class: "notice" }, h("p", {}, "Of the curators' word, not all could be followed:"), h("ul", {}, picture.troubles.map((text) => h("li", {}, text)))),
  ];
}

const percent = (step, target) => (target ? `${Math.floor((100 * step) / target)} %` : "0 %");

function meter(step, target, what) {
  const words = `${count(step)} of ${count(target)} steps`;
  return h("span", { class: "meter" },
    h("progress", { max: target, value: step, "aria-label": `${what}: ${words}` }),
    h("span", { class: "numbers" }, words));
}

export function showUnits(run) {
  const picture = run?.picture;
  byId("units").hidden = !picture;
  if (picture) show(byId("units-list"), [picture.units, run.sheets], () => picture.units.map((unit) => unitRow(unit, run.sheets[unit.unit] ?? {})));
}

function unitRow(unit, sheets) {
  const row = h("details", { class: `unit ${unit.state}`, open: open.has(unit.unit) },
    h("summary", { "data-key": unit.unit },
      h("span", { class: "name" }, h("strong", {}, unit.unit), unit.words.length > 0 && h("span", { class: "words" }, unit.words.join(", "))),
      h("span", { class: `state ${STATES[unit.state]}` }, STATES[unit.state]),
      h("span", { class: "holder" }, holding(unit)),
      meter(unit.step, unit.target, unit.unit),
      h("span", { class: "loss" }, sparkline(points(unit.claimed)), loss(unit.holdout_loss_micro) && h("span", {}, h("span", { class: "unseen" }, "hold-out loss "), loss(unit.holdout_loss_micro)))));
  const body = h("div", { class: "story" });
  row.append(body);
  const tell = () => row.open && !body.hasChildNodes() && body.append(...story(unit, sheets).filter(Boolean));
  row.addEventListener("toggle", () => {
    open[row.open ? "add" : "delete"](unit.unit);
    tell();
  });
  tell();
  return row;
}

function holding(unit) {
  if (unit.state === "complete") return ["trained by ", list(unit.lineage.map(({ by, name }) => who(by, name)))];
  if (unit.holder) {
    const pace = [unit.samples_per_s && `${count(unit.samples_per_s)} samples/s`, unit.left_s !== null && `about ${duration(unit.left_s)} left`].filter(Boolean);
    return [who(unit.holder, unit.holder_name), pace.length > 0 && h("span", { class: "pace" }, pace.join(", "))];
  }
  if (unit.waits_for) return `waits for ${unit.waits_for}`;
  return unit.state === "stalled" ? "nobody trains it on" : "free to claim";
}

const list = (parts) => parts.flatMap((part, i) => (i ? [", then ", part] : [part]));
const points = (claimed) => claimed.map(([step, micro]) => [step, micro / 1e6]);

function story(unit, sheets) {
  const measured = unit.verdicts.filter(({ loss_micro, carries }) => loss_micro !== null && carries);
  const marks = (holds) => measured.filter((verdict) => verdict.holds === holds).map(({ step, loss_micro }) => [step, loss_micro / 1e6]);
  return [
    lossChart("Hold-out loss", [{ label: "as claimed", kind: "claimed", points: points(unit.claimed) }], [
      { label: "as others measured it", kind: "measured", points: marks(true) },
      { label: "measured and found wanting", kind: "wanting", points: marks(false) },
    ]),
    h("div", { class: "sheets" }, sheet(sheets.drawn, "What its expert draws by itself", unit), sheet(sheets.data, "What it is trained on", unit)),
    h("h3", {}, "Lineage"),
    ...lineage(unit),
    h("p", { class: "quiet" }, copies(unit)),
    unit.verdicts.length > 0 && h("h3", {}, "Verdicts"),
    unit.verdicts.length > 0 && h("ul", { class: "plain" }, unit.verdicts.slice(-12).reverse().map(verdict)),
    unit.refused.length > 0 && h("h3", {}, "Refused"),
    unit.refused.length > 0 && h("ul", { class: "plain refused" }, unit.refused.map((text) => h("li", {}, text))),
  ];
}

function sheet(digest, words, unit) {
  return digest && h("figure", {}, h("img", { src: `/media/${encodeURIComponent(digest)}`, alt: `${words}: ${unit.unit}`, loading: "lazy" }), h("figcaption", { class: "quiet" }, words));
}

function copies(unit) {
  if (!unit.checkpoint) return "Nothing of it has been published yet.";
  const served = unit.copies === 1 ? "one peer serves" : `${count(unit.copies)} peers serve`;
  return [`Its newest checkpoint has ${count(unit.published_step)} steps; ${served} it. `, h("code", {}, unit.checkpoint.slice(0, 19) + "…")];
}

function lineage(unit) {
  if (!unit.lineage.length) return [h("p", { class: "empty" }, unit.waits_for ? "It begins when the base is complete." : "Nobody has trained it yet: paris-node start claims what is free.")];
  const bar = h("div", { class: "lineage", "aria-hidden": "true" }, unit.lineage.map((piece) => {
    const part = tinted(h("span", { title: `${piece.name} ${piece.by}` }), piece.by);
    part.style.flexGrow = Math.max(1, piece.to_step - piece.from_step);
    return part;
  }), rest(unit));
  const items = unit.lineage.map((piece, i) => tinted(h("li", {},
    h("span", { class: "swatch", "aria-hidden": "true" }), who(piece.by, piece.name),
    ` steps ${count(piece.from_step)} to ${count(piece.to_step)}, ${count(piece.checkpoints)} checkpoint${piece.checkpoints === 1 ? "" : "s"}, `, ago(piece.finished_s),
    h("span", { class: "quiet" }, i ? ", took over" : unit.start ? ", from the start the genesis names" : ", from nothing")), piece.by));
  return [bar, h("ol", { class: "plain" }, items)];
}

function rest(unit) {
  const left = unit.target - unit.published_step;
  if (left <= 0) return null;
  const part = h("span", { class: "rest" });
  part.style.flexGrow = left;
  return part;
}

function verdict(found) {
  return h("li", {},
    h("span", { class: found.holds ? "good" : "bad" }, found.holds ? "holds" : "does not hold"),
    ` at step ${count(found.step)}, ${found.level}`, found.loss_micro !== null && ` with ${loss(found.loss_micro)}`, ", by ", who(found.by, found.name), found.note && ` — ${found.note}`);
}
