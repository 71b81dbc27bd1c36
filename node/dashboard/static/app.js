// Asks for the state while the page is seen, and hands each part of it to the part of the page that shows it.

import { ago, byId, h, setClock, show, tick } from "./dom.js";
import { showNode, showPeers } from "./node.js";
import { showPictures, showStudio } from "./pictures.js";
import { showRun, showUnits } from "./units.js";

const EVERY_MS = 4000, DRAWING_MS = 700;
let timer, last, current;

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch(`/api/v1/state${current ? `?run=${encodeURIComponent(current)}` : ""}`);
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    last = { state: await answer.json(), heard: true };
    setClock(last.state.now_s);
  } catch {
    last = { ...last, heard: false };
  }
  try {
    render();
  } finally {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, last.state?.studio.job?.state === "drawing" ? DRAWING_MS : EVERY_MS);
  }
}

/** The run that the address names, or that it named last: it may name a place in the page instead. */
function chosen(runs) {
  current = runs.find(({ run }) => `#${run}` === location.hash)?.run ?? current;
  const run = runs.find(({ run: key }) => key === current) ?? runs[0];
  current = run?.run;
  return run;
}

function render() {
  const { state, heard } = last;
  if (!state) {
    byId("pulse").textContent = "The dashboard does not answer.";
    return;
  }
  const run = chosen(state.runs), picture = run?.picture;
  document.title = picture ? `${picture.name} · paris-node` : "paris-node";
  show(byId("runs"), state.runs.map(({ run: key, picture: seen }) => [key, seen?.name, key === run?.run]), () => tabs(state.runs, run));
  byId("runs").hidden = state.runs.length < 2;
  show(byId("pulse"), [heard, run?.seen_s, run?.trouble?.what], () => pulse(heard, run));
  show(byId("notices"), [heard, run?.trouble, run?.seen_s && run.trouble], () => notices(heard, run));
  if (run) showRun(run, picture);
  else show(byId("run"), "none", nothing);
  showUnits(run);
  showNode(state, run);
  showPeers(picture);
  showStudio(state, refresh);
  showPictures(state);
  document.body.dataset.ready = "yes";
}

function tabs(runs, current) {
  return runs.map(({ run, picture }) => h("a", { href: `#${run}`, "aria-current": run === current.run && "page", "data-key": run }, picture?.name ?? `${run.slice(8, 16)}…`));
}

function pulse(heard, run) {
  if (!heard) return h("span", { class: "bad" }, "The dashboard was ended");
  if (!run) return "";
  if (run.trouble) return h("span", { class: "bad" }, run.trouble.kind === "network" ? "No network" : "Something is wrong");
  return run.seen_s ? h("span", { class: "good" }, "Seen ", ago(run.seen_s)) : "Looking …";
}

function notices(heard, run) {
  if (!heard) return h("div", { class: "notice" }, h("p", {}, h("strong", {}, "The dashboard does not answer any more."), " What follows is what it showed last. To open it again: ", h("code", {}, "paris-node dashboard")));
  if (!run?.trouble) return [];
  const { kind, what, why, hint, since_s } = run.trouble;
  const age = run.seen_s ? ["What follows was seen ", ago(run.seen_s), "; it is asked again all the time."] : ["Nothing was seen since this dashboard began; it is asked again all the time."];
  return h("div", { class: "notice" },
    h("p", {}, h("strong", {}, kind === "network" ? "The network cannot be reached" : "The run cannot be shown"), `: ${what}, `, ago(since_s), "."),
    why && h("ul", {}, why.split("; ").map((line) => h("li", {}, line))),
    hint && h("p", {}, `Next: ${hint}`),
    h("p", { class: "quiet" }, age));
}

function nothing() {
  return [h("h1", {}, "No run yet"), h("p", { class: "empty" }, "This home has had to do with no run. Join one with ", h("code", {}, "paris-node start paris://…"), ", make one with ", h("code", {}, "paris-node run create"), ", or name one: ", h("code", {}, "paris-node dashboard paris://…"))];
}

addEventListener("hashchange", () => last?.state && (render(), refresh()));
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || tick(), 1000);
refresh();
