// Pictures: painted from words, painted anew under a brush, varied.
import { dataUrl, json } from "./api.js";
import { canvas } from "./canvas.js";
import { button, el, field, guarded, number, status } from "./dom.js";
import { chosen } from "./settings.js";

export function pictures(panel, models) {
  const [model, modelField] = chosen(models), words = el("input", { placeholder: "a red circle left of a blue square", size: 40 });
  const count = number(4, 1, 10), steps = number(20, 1, 250), guidance = number(3, 0, 50, 0.5), seed = number(0, 0, 2 ** 31);
  const made = el("div", { class: "pictures", "aria-live": "polite" }), file = el("input", { type: "file", accept: "image/*" });
  let mask = el("canvas", { width: 256, height: 256 });
  const brush = canvas("Picture to edit, with a brush", (x, y, { other }) => {
    const pen = mask.getContext("2d");
    pen.globalCompositeOperation = other ? "destination-out" : "source-over";
    pen.fillStyle = "#e11";
    pen.beginPath();
    pen.arc(x, y, mask.width / 16, 0, 7);
    pen.fill();
  });

  async function edit(url) {
    await brush.show(url);
    mask = el("canvas", { width: brush.made.width, height: brush.made.height });
    brush.over(pen => { pen.globalAlpha = 0.5; pen.drawImage(mask, 0, 0); pen.globalAlpha = 1; });
  }

  async function paint(path, more) {
    status("Painting ...");
    const body = { model: model.value, prompt: words.value, n: +count.value, steps: +steps.value, guidance: +guidance.value,
      seed: +seed.value, ...more };
    const { data } = await json(path, body);
    made.replaceChildren(...data.map((one, n) => {
      const url = one.url || `data:image/png;base64,${one.b64_json}`;
      return el("figure", {}, el("img", { src: url, alt: `${words.value || "picture"}, ${n + 1}` }), button("Edit", () => guarded(() => edit(url))));
    }));
    status(`${data.length} painted.`);
  }

  function needed() { if (!brush.ready()) throw new Error("choose a picture first"); return brush.url(); }

  function holes() {                                           // transparent where it is painted anew, as OpenAI's API has it
    const made_ = el("canvas", { width: mask.width, height: mask.height }), pen = made_.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(mask, 0, 0);
    return made_.toDataURL();
  }

  const can = what => models.some(one => one.can.includes(what));
  file.addEventListener("change", () => guarded(async () => { if (file.files[0]) await edit(await dataUrl(file.files[0])); }));
  panel.append(el("div", { class: "row" }, modelField, field("Words", words)),
    el("div", { class: "row" }, field("How many", count), field("Steps", steps), field("Guidance", guidance), field("Seed", seed)),
    button("Paint", () => guarded(() => paint("/v1/images/generations", {})), "main"), made,
    can("images.edit") || can("images.vary") ? el("div", {}, el("h2", {}, "From a picture"), field("Picture", file), brush.made,
      el("p", { class: "quiet" }, "Paint over what is to be made anew; with Shift the brush rubs out."), el("div", { class: "row" },
        button("Paint anew under the brush", () => guarded(() => paint("/v1/images/edits", { image: needed(), mask: holes() }))),
        button("Variations", () => guarded(() => paint("/v1/images/variations", { image: needed() }))))) : "");
}
