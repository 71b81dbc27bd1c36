// This node, this machine, and the peers of the run.

import { lossChart } from "./charts.js";
import { ago, byId, copyable, count, gigabytes, h, loss, show, who } from "./dom.js";

export function showNode(state, run) {
  byId("node").hidden = false;
  const hub = run?.picture?.hub;
  show(byId("node-doing"), [run?.node, run?.run, state.machine.peer], () => doing(run, state.machine.peer));
  show(byId("node-machine"), [state.machine, state.doctor, hub], () => [...machine(state.machine), ...queue(hub), ...doctor(state.doctor)]);
}

function doing(run, peer) {
  const name = peer ? h("p", { class: "quiet" }, "Its name is ", h("code", { class: "long" }, peer)) : null;
  if (!run) return name;
  const note = run.node;
  if (!note?.running) {
    const before = note ? [h("p", {}, "No node of this home runs now; the last one was here ", ago(note.at_s), ".")] : [h("p", {}, "No node of this home takes part in this run.")];
    return [...before, h("p", {}, "To train: ", copyable(`paris-node start ${run.run}`, "the command")), name];
  }
  return [h("p", { class: "doing" }, sentence(note)), figures(note), name];
}

function sentence(note) {
  const unit = note.unit ?? "a unit";
  switch (note.doing) {
    case "claiming": return `Claiming ${unit}, and waiting for others to be heard.`;
    case "prepare": return `Reading the data of ${unit}: ${count(note.done)} samples so far.`;
    case "training": return `Beginning to train ${unit} from step ${count(note.step)}.`;
    case "step": return `Training ${unit}.`;
    case "waiting": return `Waiting: ${note.reason}`;
    case "failed": return `Training failed and will be tried again: ${note.reason}`;
    case "complete": return "The run is complete; this node goes on serving it.";
    default: return "Joined, and looking for something to train.";
  }
}

function figures(note) {
  const published = note.published && `${note.published.unit} at step ${count(note.published.step)}, hold-out loss ${loss(note.published.holdout_loss_micro)}`;
  const facts = note.doing === "step" ? [
    ["step", note.target ? `${count(note.step)} of ${count(note.target)}` : count(note.step)],
    ["speed", `${count(note.per_s)} samples/s${note.mfu ? `, ${Math.round(note.mfu * 100)} % of the device` : ""}`],
    ["loss", note.loss.toFixed(4)],
  ] : [];
  if (published) facts.push(["published", published]);
  return [
    facts.length > 0 && h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    note.curve.length > 1 && lossChart("Training loss", [{ label: note.unit ?? "this node", kind: "claimed", points: note.curve }], [], 430),
  ];
}

function machine({ free_bytes, store_bytes, home }) {
  return [h("p", {}, `${gigabytes(free_bytes)} of disk are free; the store holds ${gigabytes(store_bytes)}. `, h("span", { class: "quiet" }, home))];
}

function queue(hub) {
  if (!hub || (!hub.waiting.length && !Object.keys(hub.published).length)) return [];
  const waiting = hub.waiting.map((item) => h("li", {}, `${item.unit} at step ${count(item.step)} waits`, item.trouble && `: ${item.trouble}`));
  const there = Object.entries(hub.published).map(([unit, entry]) => h("li", {}, `${unit}: step ${count(entry.step)} is at ${entry.repository}`));
  return [h("h3", {}, "On the Hub"), h("ul", { class: "plain" }, waiting, there)];
}

function doctor({ at_s, findings }) {
  if (!at_s) return [h("h3", {}, "Examination"), h("p", { class: "empty" }, "Being examined …")];
  const bad = findings.filter(({ verdict }) => verdict !== "ok"), good = findings.filter(({ verdict }) => verdict === "ok");
  return [
    h("h3", {}, "Examination"),
    bad.length ? h("ul", { class: "plain findings" }, bad.map(finding)) : h("p", {}, "Nothing is wrong with this machine."),
    h("details", { class: "plain" }, h("summary", { "data-key": "doctor" }, `${good.length} of ${findings.length} things are in order, looked at `, ago(at_s)), h("ul", { class: "plain" }, good.map(finding))),
  ];
}

function finding({ what, verdict, detail, cure }) {
  return h("li", {}, h("span", { class: `verdict ${verdict}` }, verdict), " ", h("strong", {}, what), ` ${detail}`, cure && h("p", { class: "cure" }, `Next: ${cure}`));
}

export function showPeers(picture) {
  byId("peers").hidden = !picture;
  if (picture) show(byId("peers-list"), picture.nodes, () => peers(picture.nodes));
}

function peers(nodes) {
  if (!nodes.length) return h("p", { class: "empty" }, "Nobody has announced itself lately. A node that runs does so every few minutes.");
  const sorted = [...nodes].sort((a, b) => b.seen_s - a.seen_s);
  const rows = sorted.slice(0, 200).map((node) => h("tr", {},
    h("td", {}, who(node.peer, node.name)),
    h("td", {}, node.version.replace("paris-node/", "")),
    h("td", {}, ago(node.seen_s)),
    h("td", {}, node.claims.join(", ") || (node.abilities.includes("train") ? "—" : "only serves")),
    h("td", {}, node.serves.join(", ") || "—")));
  const heads = ["peer", "version", "last seen", "trains", "serves the newest of"].map((text) => h("th", { scope: "col" }, text));
  return [h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Peers" }, h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))),
    sorted.length > 200 && h("p", { class: "quiet" }, `and ${count(sorted.length - 200)} more`)];
}
