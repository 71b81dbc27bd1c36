// Building the page. Whatever comes from strangers becomes text nodes and attribute values, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings become text. `on` holds listeners, `class` and `data-` are as in HTML. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const byId = (id) => document.getElementById(id);

const drawn = new WeakMap();

/** Build a part of the page anew, only when what it shows has changed; focus stays where it was. */
export function show(container, facts, build) {
  const key = JSON.stringify(facts);
  if (drawn.get(container) === key) return;
  drawn.set(container, key);
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren(...[build()].flat(Infinity).filter((part) => part instanceof Node || (typeof part === "string" && part)));
  if (focused) container.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** A moment as its distance from now; `tick` keeps it true. */
export function ago(seconds) {
  const stamp = h("time", { "data-at": seconds, "aria-live": "off", datetime: new Date(seconds * 1000).toISOString() });
  stamp.title = new Date(seconds * 1000).toLocaleString();
  stamp.textContent = distance(seconds);
  return stamp;
}

export function tick() {
  for (const stamp of document.querySelectorAll("time[data-at]")) {
    const text = distance(Number(stamp.dataset.at));
    if (stamp.textContent !== text) stamp.textContent = text;
  }
}

let ahead_s = 0;

/** What time it is where the page comes from: this machine's clock may differ. */
export function setClock(now_s) {
  ahead_s = now_s - Date.now() / 1000;
}

const distance = (seconds) => {
  const passed = Math.round(Date.now() / 1000 + ahead_s - seconds);
  return passed < 3 ? "just now" : `${duration(passed)} ago`;
};

/** A length of time in the largest unit that it holds more than one of. */
export function duration(seconds) {
  for (const [unit, size] of [["days", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 1.5 * size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

export const count = (number) => Number(number).toLocaleString("en");
export const loss = (micro) => (micro === null || micro === undefined ? "" : (micro / 1e6).toFixed(4));
export const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 0)} GB`;
export const short = (peer) => `…${String(peer).slice(-8)}`;

/** Who somebody is, for people: the name they gave themselves, and the end of the one nobody can take. */
export function who(peer, name) {
  const id = h("code", { title: peer }, short(peer));
  return name ? h("span", { class: "who" }, `${name} `, id) : h("span", { class: "who" }, id);
}

/** A colour a signer, the same everywhere on the page. */
export function hue(text) {
  let sum = 7;
  for (const letter of String(text)) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return (sum * 47) % 360;
}

export function tinted(element, text) {
  element.style.setProperty("--hue", hue(text));
  return element;
}

/** Why a drawing was refused, as a sentence: the studio says it as JSON, what stands before it as text. */
export async function refusal(answer) {
  if (answer.status === 422) return "The words or one of the settings are not among what can be drawn (422).";
  let said = await answer.text().catch(() => "");
  try {
    const { detail } = JSON.parse(said);
    if (typeof detail === "string") said = detail;
  } catch {
    // The text itself is the sentence.
  }
  return `${said || "That cannot be drawn."} (${answer.status})`;
}

/** Text to take along, with a button that copies it. */
export function copyable(text, label) {
  const button = h("button", { type: "button", class: "quiet", "data-key": `copy ${text}`, "aria-label": `Copy ${label}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousSibling);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return h("span", { class: "copyable" }, h("code", {}, text), button);
}
