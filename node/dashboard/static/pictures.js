// Pictures and clips, and a form to have more drawn. A clip plays while it is seen, unless who looks wants less motion.

import { routingStrip } from "./charts.js";
import { ago, byId, h, refusal, show } from "./dom.js";

const shown = new Map();
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.dispatchEvent(new CustomEvent(isIntersecting ? "seen" : "unseen"));
}, { rootMargin: "100px" });

export function showPictures(state) {
  byId("pictures").hidden = false;
  const gallery = byId("gallery"), pieces = state.pictures;
  const kept = new Set(pieces.map(({ digest }) => digest));
  for (const [digest, figure] of shown) if (!kept.has(digest)) {
    figure.remove();
    shown.delete(digest);
  }
  pieces.forEach((piece, i) => {
    if (!shown.has(piece.digest)) shown.set(piece.digest, figure(piece));
    if (gallery.children[i] !== shown.get(piece.digest)) gallery.insertBefore(shown.get(piece.digest), gallery.children[i] ?? null);
  });
  const empty = byId("no-pictures");
  empty.hidden = pieces.length > 0;
  empty.textContent = state.studio.ensembles.length
    ? "Nothing was drawn here yet."
    : "Nothing was drawn here yet. `paris-node generate RUN \"a red fox\"` fetches the ensemble into this home; --show FOLDER shows pictures that lie elsewhere, --ensemble FOLDER draws with what was fetched there.";
}

function figure(piece) {
  const { drawn } = piece, words = drawn?.prompt ?? piece.name;
  const source = `/media/${encodeURIComponent(piece.digest)}`;
  const media = piece.kind === "video" ? video(source, words) : piece.kind === "animation" ? animation(source, words) : h("img", { src: source, alt: words, loading: "lazy" });
  const how = drawn && [`seed ${drawn.seed}, ${drawn.steps} steps, guidance ${drawn.guidance}`, drawn.top_k && `, top-${drawn.top_k}`];
  return h("figure", { class: "piece" }, media,
    h("figcaption", {}, h("span", { class: "prompt" }, words), how && h("span", { class: "quiet" }, how), h("span", { class: "quiet" }, ago(piece.made_s)), drawn && routingStrip(drawn.routing)));
}

/** A button that stops and plays what moves; `play` and `stop` do it, what is out of sight rests. */
function player(media, words, play, stop) {
  let wanted = !calm.matches;
  const button = h("button", { type: "button", class: "play" });
  const box = h("div", { class: "clip" }, media, button);
  const set = (playing) => {
    (playing ? play : stop)();
    button.textContent = wanted ? "Pause" : "Play";
    button.setAttribute("aria-label", `${wanted ? "Pause" : "Play"} ${words}`);
  };
  button.addEventListener("click", () => set((wanted = !wanted)));
  calm.addEventListener("change", () => set((wanted = !calm.matches)));
  box.addEventListener("seen", () => set(wanted));
  box.addEventListener("unseen", () => set(false));
  set(false);
  seen.observe(box);
  return box;
}

function video(source, words) {
  const media = h("video", { loop: true, playsinline: true, preload: "none", "aria-label": words });
  media.muted = true;
  const load = () => media.getAttribute("src") ?? ((media.preload = "metadata"), media.setAttribute("src", source));
  const box = player(media, words, () => {
    load();
    media.play().catch(() => {});
  }, () => media.pause());
  box.addEventListener("seen", load);
  return box;
}

/** An image that moves cannot be paused: at rest its first frame stands in its place. */
function animation(source, words) {
  const still = h("canvas", { role: "img", "aria-label": words });
  const image = h("img", { alt: words });
  const box = player(still, words, () => {
    load();
    still.replaceWith(image);
  }, () => image.replaceWith(still));
  const load = () => image.getAttribute("src") ?? image.setAttribute("src", source);
  image.addEventListener("load", () => {
    [still.width, still.height] = [image.naturalWidth, image.naturalHeight];
    still.getContext("2d").drawImage(image, 0, 0);
  });
  box.addEventListener("seen", load);
  return box;
}

export function showStudio(state, refresh) {
  const { ensembles, job } = state.studio;
  const box = byId("studio");
  show(box, [ensembles, state.draws], () => (ensembles.length && state.draws ? form(ensembles, refresh) : []));
  const told = byId("job");
  if (told) show(told, job, () => progress(job));
  const button = byId("draw");
  if (button) button.disabled = job?.state === "drawing";
}

function form(ensembles, refresh) {
  const field = (label, input) => h("label", {}, h("span", {}, label), input);
  const number = (name, value, most, step = 1, least = 0) => h("input", { name, type: "number", value, min: least, max: most, step, required: true, "data-key": name });
  const element = h("form", { class: "studio" },
    field("Draw", h("input", { name: "prompt", type: "text", maxlength: 400, required: true, placeholder: "a red fox", autocomplete: "off", "data-key": "prompt" })),
    h("div", { class: "settings" },
      ensembles.length > 1 && field("with", h("select", { name: "ensemble" }, ensembles.map(({ id, name }) => h("option", { value: id }, name)))),
      field("seed", number("seed", 0, 2 ** 31 - 1)),
      field("steps", number("steps", 30, 150, 1, 1)),
      field("guidance", number("guidance", 3, 30, 0.1)),
      field("top-k", h("input", { name: "top_k", type: "number", min: 1, max: 64, placeholder: "usual" })),
      h("button", { id: "draw", type: "submit" }, "Draw")),
    h("div", { id: "job", role: "status" }));
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    draw(new FormData(element), ensembles, refresh);
  });
  return element;
}

async function draw(fields, ensembles, refresh) {
  const wish = {
    ensemble: fields.get("ensemble") ?? ensembles[0].id,
    prompt: fields.get("prompt"),
    seed: Number(fields.get("seed")),
    steps: Number(fields.get("steps")),
    guidance: Number(fields.get("guidance")),
    top_k: fields.get("top_k") ? Number(fields.get("top_k")) : null,
  };
  const token = document.querySelector("meta[name=paris-token]").content;
  const answer = await fetch("/api/v1/draw", { method: "POST", headers: { "content-type": "application/json", "x-paris-token": token }, body: JSON.stringify(wish) }).catch(() => null);
  if (answer?.ok) return refresh();
  byId("job").replaceChildren(h("p", { class: "bad" }, answer ? await refusal(answer) : "The dashboard does not answer."));
}

function progress(job) {
  if (!job || job.state === "drawn") return [];
  if (job.state === "failed") return h("div", { class: "bad" }, h("p", {}, `“${job.wish.prompt}” was not drawn: ${job.what}`), job.why && h("p", {}, job.why), job.hint && h("p", {}, `Next: ${job.hint}`));
  const words = job.step ? `step ${job.step} of ${job.wish.steps}` : "loading the experts …";
  return h("p", {}, `Drawing “${job.wish.prompt}”: ${words} `, h("progress", { max: job.wish.steps, value: job.step || false, "aria-label": words }));
}
