// Text goes on, a gap is filled (fill-in-the-middle), or a text is coloured by how likely the model finds it.
import { json, stream } from "./api.js";
import { area, button, el, field, guarded, status, tokens } from "./dom.js";
import { chosen, sampling } from "./settings.js";

export function complete(panel, models) {
  const [model, modelField] = chosen(models), [row, settings] = sampling();
  const before = area("def add(a, b):\n    ", "code"), after = area("what stands behind the gap (models trained to fill gaps)", "code");
  const out = el("pre", { class: "text code message", "aria-live": "polite", "aria-label": "Result" }), shown = el("input", { type: "checkbox" });
  let stopping = null, last = null;

  async function write() {
    stopping?.abort();
    stopping = new AbortController();
    stop.disabled = false;
    status("Writing ...");
    const list = [], asked = { model: model.value, prompt: before.value, logprobs: 4, ...settings(), ...(after.value ? { suffix: after.value } : {}) };
    const added = el("span", { class: "new" });
    out.replaceChildren(before.value, added, after.value);
    try {
      for await (const { choices: [choice] } of stream("/v1/completions", asked, stopping.signal)) {
        added.append(choice?.text || "");
        const told = choice?.logprobs;
        (told?.tokens || []).forEach((text, n) => list.push({ text, logprob: told.token_logprobs[n],
          instead: Object.entries(told.top_logprobs?.[n] || {}) }));
      }
    } finally { stop.disabled = true; }
    last = () => { if (list.length) tokens(added, list, shown.checked); };
    last();
    status("The text is complete.");
  }

  async function score() {
    const { data: [told] } = await json("/score", { model: model.value, input: before.value });
    const list = told.tokens.map((text, n) => ({ text, logprob: told.logprobs[n] }));
    last = () => tokens(out, list, true);
    last();
    status(`${told.nats.toFixed(2)} nats, ${told.bits_per_byte.toFixed(3)} bits per byte`);
  }

  const stop = button("Stop", () => stopping?.abort());
  stop.disabled = true;
  before.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) guarded(write); });
  shown.addEventListener("change", () => last?.());
  panel.append(el("div", { class: "row" }, modelField, field("Colour tokens by probability", shown)), field("Text", before, true),
    field("After the gap", after, true), row, el("div", { class: "row" }, button("Go on", () => guarded(write), "main"), stop,
      button("How likely is this text?", () => guarded(score)), el("span", { class: "quiet" }, "Ctrl+Enter goes on.")), out);
}
