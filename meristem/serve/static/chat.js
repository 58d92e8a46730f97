// Chat: streaming, stop, regenerate, edit, pictures, probabilities of tokens, worked examples, a JSON schema, tools.
import { dataUrl, stream } from "./api.js";
import { area, button, el, field, guarded, status, tokens } from "./dom.js";
import { chosen, sampling } from "./settings.js";

export function parsed(text, what) {
  if (!text.trim()) return undefined;
  try { return JSON.parse(text); } catch (error) { throw new Error(`${what} is not JSON: ${error.message}`); }
}

export async function* answered(body, signal) {                // {text, tokens, calls, done} as it grows
  const made = { text: "", tokens: [], calls: [], done: "" };
  for await (const { choices: [choice] = [] } of stream("/v1/chat/completions", body, signal)) {
    if (!choice) continue;
    const delta = choice.delta || {};
    made.text += delta.content || "";
    for (const one of choice.logprobs?.content || [])
      made.tokens.push({ text: one.token, logprob: one.logprob, instead: (one.top_logprobs || []).map(t => [t.token, t.logprob]) });
    for (const call of delta.tool_calls || []) {
      const kept = made.calls[call.index ?? made.calls.length] ||= { id: "", type: "function", function: { name: "", arguments: "" } };
      kept.id ||= call.id || "";
      kept.function.name += call.function?.name || "";
      kept.function.arguments += call.function?.arguments || "";
    }
    made.done = choice.finish_reason || made.done;
    yield made;
  }
}

export function chat(panel, models) {
  const [model, modelField] = chosen(models), [row, settings] = sampling();
  const system = area("You are a helpful assistant."), said = area("Say something"), log = el("div", { "aria-live": "polite" });
  const schema = area('{"type": "object", "properties": {...}}', "code"), tools = area('[{"type": "function", "function": {"name": ...}}]', "code");
  const shown = el("input", { type: "checkbox" }), examples = el("div"), turns = [];
  const files = el("input", { type: "file", accept: "image/*", multiple: true }), filesField = field("Pictures", files);
  let stopping = null, kept = [];                               // kept: the pictures of a message that is being edited

  const sees = () => models.find(one => one.id === model.value)?.can.includes("see");
  const look = () => { filesField.hidden = !sees(); };

  const example = () => {
    const asked = area("A question"), answer = area("The answer it should get");
    const box = el("div", { class: "columns example" }, asked, answer, button("Remove", () => box.remove()));
    asked.setAttribute("aria-label", "Question of an example");
    answer.setAttribute("aria-label", "Answer of an example");
    examples.append(box);
    asked.focus();
  };

  function messages() {
    const first = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    const shots = [...examples.querySelectorAll(".example")].flatMap(box => {
      const [asked, answer] = [...box.querySelectorAll("textarea")].map(one => one.value);
      return asked.trim() && answer.trim() ? [{ role: "user", content: asked }, { role: "assistant", content: answer }] : [];
    });
    const inside = ({ content, images }) => images?.length && sees() ? [...images.map(url => ({ type: "image_url", image_url: { url } })),
      { type: "text", text: content }] : content ?? "";
    return [...first, ...shots, ...turns.map(({ role, content, images, tool_calls, tool_call_id }) => ({
      role, content: inside({ content, images }), ...(tool_calls?.length ? { tool_calls } : {}), ...(tool_call_id ? { tool_call_id } : {}) }))];
  }

  function draw() {
    log.replaceChildren(...turns.map((turn, n) => {
      const text = el("p", { class: "text" }), who = el("div", { class: "who" }, turn.role);
      if (turn.tokens?.length) tokens(text, turn.tokens, shown.checked); else text.textContent = turn.content || "";
      if (!stopping && turn.role === "user") who.append(button("Edit", () => {
        said.value = turn.content;
        kept = turn.images || [];
        turns.splice(n);
        draw();
        said.focus();
      }));
      if (!stopping && turn.role === "assistant" && n === turns.length - 1) who.append(button("Regenerate", () => { turns.pop(); speak(); }));
      const calls = (turn.tool_calls || []).map(call => {
        const result = el("input", { placeholder: "what the tool answers", "aria-label": `Answer of ${call.function.name}` });
        return el("form", { class: "row", onsubmit: event => {
          event.preventDefault();
          turns.push({ role: "tool", content: result.value, tool_call_id: call.id });
          if (turns.filter(one => one.role === "tool").length % turn.tool_calls.length === 0) speak(); else draw();
        } }, el("code", {}, `${call.function.name}(${call.function.arguments})`), n === turns.length - 1 ? result : null,
          n === turns.length - 1 ? el("button", { type: "submit" }, "Give back") : null);
      });
      const images = (turn.images || []).map((url, i) => el("img", { src: url, alt: `Picture ${i + 1} of the message`, class: "attached" }));
      return el("article", { class: `message ${turn.role}`, "aria-label": turn.role }, who, text, ...images, ...calls);
    }));
    stop.disabled = !stopping;
    send.disabled = Boolean(stopping);
  }

  async function speak() {
    stopping = new AbortController();
    status("Writing ...");
    const whole = await guarded(async () => {
      const format = parsed(schema.value, "the schema"), list = parsed(tools.value, "the list of tools");
      const asked = { model: model.value, messages: messages(), logprobs: true, top_logprobs: 4, ...settings(),
        ...(format ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema: format } } } : {}),
        ...(list ? { tools: list } : {}) };
      const turn = { role: "assistant", content: "", tokens: [] };
      turns.push(turn);
      draw();
      const text = () => log.lastElementChild.querySelector(".text");
      try {
        for await (const made of answered(asked, stopping.signal)) {
          Object.assign(turn, { content: made.text, tokens: made.tokens, tool_calls: made.calls });
          text().textContent = made.text;
        }
      } finally { if (!turn.content && !turn.tool_calls?.length) turns.pop(); }
      return true;
    });
    stopping = null;
    draw();
    status(whole ? "The answer is complete." : "Stopped.");
  }

  async function submit() {
    if (stopping || !said.value.trim()) return;
    const content = said.value;
    said.value = "";
    const images = await guarded(async () => sees() && files.files.length ? Promise.all([...files.files].map(dataUrl)) : kept);
    if (!images) return;
    turns.push({ role: "user", content, images });
    [files.value, kept] = ["", []];
    speak();
  }

  const send = button("Send", submit, "main"), stop = button("Stop", () => stopping?.abort());
  said.setAttribute("aria-label", "Message");
  said.addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); submit(); }
    if (event.key === "Escape") stopping?.abort();
  });
  shown.addEventListener("change", draw);
  model.addEventListener("change", look);
  look();
  panel.append(el("div", { class: "row" }, modelField, field("Colour tokens by probability", shown)),
    el("details", {}, el("summary", {}, "Instructions, examples, schema, tools"), field("System prompt", system, true), examples,
      button("Add an example", example), field("JSON schema of the answer", schema, true), field("Tools", tools, true)),
    row, log, said, filesField, el("div", { class: "row" }, send, stop, button("Clear", () => { turns.splice(0); draw(); }),
      el("span", { class: "quiet" }, "Enter sends, Shift+Enter is a new line, Escape stops.")));
  draw();
}
