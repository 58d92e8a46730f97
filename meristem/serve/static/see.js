// See: which of some words fits a picture, and the object under a click.
import { dataUrl, json } from "./api.js";
import { canvas } from "./canvas.js";
import { area, button, el, field, guarded, status } from "./dom.js";
import { chosen } from "./settings.js";

function zeroShot(models) {
  const [model, modelField] = chosen(models), file = el("input", { type: "file", accept: "image/*" });
  const labels = area("a cat\na dog\na tree"), template = el("input", { value: "a photo of {}", size: 30 }), out = el("table", { "aria-live": "polite" });
  async function run() {
    if (!file.files[0]) throw new Error("choose a picture first");
    const words = labels.value.split("\n").map(one => one.trim()).filter(Boolean);
    const { data } = await json("/v1/zero-shot", { model: model.value, image: await dataUrl(file.files[0]), labels: words, template: template.value });
    out.replaceChildren(el("caption", { class: "quiet" }, `shares among these ${words.length} labels`), ...data.map(({ label, score }) => el("tr", {},
      el("th", { scope: "row" }, label), el("td", {}, el("meter", { min: 0, max: 1, value: score, "aria-label": label })), el("td", {}, `${(100 * score).toFixed(1)} %`))));
  }
  return el("div", {}, el("h2", {}, "Which words fit?"), el("div", { class: "row" }, modelField, field("Picture", file), field("Template", template)),
    field("Labels, one a line", labels, true), button("Classify", () => guarded(run), "main"), out);
}

function segment(models) {
  const [model, modelField] = chosen(models), file = el("input", { type: "file", accept: "image/*" }), masks = el("div", { class: "row", role: "radiogroup", "aria-label": "Masks" });
  let points = [];
  const board = canvas("Picture to segment", (x, y, { first, other }) => {
    if (!first) return;
    points.push([x, y, other ? 0 : 1]);
    guarded(run);
  });

  async function run() {
    if (!board.ready()) throw new Error("choose a picture first");
    const told = await json("/v1/segment", { model: model.value, image: board.url(), points });
    const found = await Promise.all(told.masks.map(async one => {
      const image = new Image();
      image.src = one.png;
      await image.decode();
      return { image, score: one.score };
    }));
    const show = n => board.over(pen => {
      const [left, top, right, bottom] = told.square, tint = el("canvas", { width: right - left, height: bottom - top }), on = tint.getContext("2d");
      on.drawImage(found[n].image, 0, 0, tint.width, tint.height);
      const pixels = on.getImageData(0, 0, tint.width, tint.height);
      for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([225, 30, 30, pixels.data[i] / 2], i);
      on.putImageData(pixels, 0, 0);
      pen.drawImage(tint, left, top);
      for (const [x, y, sign] of points) { pen.fillStyle = sign ? "#0b5" : "#06c"; pen.beginPath(); pen.arc(x, y, pen.canvas.width / 48, 0, 7); pen.fill(); }
    });
    masks.replaceChildren(...found.map(({ score }, n) => field(`mask ${n + 1}, quality ${score.toFixed(2)}`,
      el("input", { type: "radio", name: "mask", checked: n === 0, onchange: () => show(n) }))));
    if (found.length) show(0);
    status(`${found.length} mask${found.length === 1 ? "" : "s"}`);
  }

  const clear = () => { points = []; masks.replaceChildren(); board.over(() => {}); };
  file.addEventListener("change", () => guarded(async () => { clear(); if (file.files[0]) await board.show(await dataUrl(file.files[0])); }));
  return el("div", {}, el("h2", {}, "Click on an object"), el("div", { class: "row" }, modelField, field("Picture", file)), board.made,
    el("p", { class: "quiet" }, "A click is on the object, with Shift beside it."), masks,
    el("div", { class: "row" }, button("Everything", () => { points = []; guarded(run); }), button("Clear", clear)));
}

export function see(panel, models) {
  const towers = models.filter(one => one.can.includes("zero_shot")), segmenters = models.filter(one => one.can.includes("segment"));
  panel.append(...(towers.length ? [zeroShot(towers)] : []), ...(segmenters.length ? [segment(segmenters)] : []));
}
