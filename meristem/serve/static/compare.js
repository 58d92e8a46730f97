// Models and adapters side by side, and which answer a person prefers (a file that trains a reward model, or DPO).
import { json, stream } from "./api.js";
import { answered } from "./chat.js";
import { area, button, el, field, guarded, status } from "./dom.js";
import { sampling } from "./settings.js";

export function compare(panel, models) {
  const said = area("A prompt that all of them answer"), [row, settings] = sampling(), place = el("div", { class: "columns" });
  const boxes = models.map((model, n) => el("input", { type: "checkbox", value: model.id, checked: n < 2 }));
  const blind = el("input", { type: "checkbox", checked: true }), votes = el("div", { class: "row" });
  let stopping = null;
  said.setAttribute("aria-label", "Prompt");

  async function* written(model, asked) {
    if (model.can.includes("chat")) {
      const body = { model: model.id, messages: [{ role: "user", content: asked }], ...settings() };
      for await (const made of answered(body, stopping.signal)) yield made.text;
      return;
    }
    let text = "";
    for await (const { choices: [choice] } of stream("/v1/completions", { model: model.id, prompt: asked, ...settings() }, stopping.signal)) {
      text += choice?.text || "";
      yield text;
    }
  }

  async function run() {
    const some = boxes.filter(one => one.checked).map(one => models.find(model => model.id === one.value));
    if (some.length < 2) throw new Error("choose two or more");
    if (blind.checked) some.sort(() => Math.random() - 0.5);
    stopping = new AbortController();
    votes.replaceChildren();
    status("Writing ...");
    const asked = said.value, texts = some.map(() => "");
    place.replaceChildren(...some.map((model, n) => el("article", { class: "message", "aria-label": `Answer ${n + 1}` },
      el("h2", {}, blind.checked ? `Answer ${n + 1}` : model.id), el("p", { class: "text" }))));
    stop.disabled = false;
    await Promise.all(some.map(async (model, n) => {
      for await (const text of written(model, asked)) place.children[n].querySelector(".text").textContent = texts[n] = text;
    })).finally(() => { stop.disabled = true; });
    if (some.length === 2) {
      const vote = (good, bad) => guarded(async () => {
        await json("/v1/preferences", { prompt: asked, chosen: texts[good], rejected: texts[bad],
          model_chosen: some[good].id, model_rejected: some[bad].id });
        reveal();
        status("Kept.");
      });
      const reveal = () => { votes.replaceChildren(); some.forEach((model, n) => { place.children[n].querySelector("h2").textContent = model.id; }); };
      votes.replaceChildren(button("Answer 1 is better", () => vote(0, 1), "main"), button("Answer 2 is better", () => vote(1, 0), "main"),
        button("Equal, or both bad", reveal));
    }
  }

  const stop = button("Stop", () => stopping?.abort());
  stop.disabled = true;
  panel.append(el("fieldset", {}, el("legend", {}, "Who answers"), ...boxes.map(box => field(box.value, box))),
    said, row, el("div", { class: "row" }, button("Ask all", () => guarded(run), "main"), stop, field("Hide the names until I have chosen", blind)), place, votes);
}
