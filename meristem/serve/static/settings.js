// The settings of a text, the same on every panel that asks for one.
import { el, field, number } from "./dom.js";

export const chosen = (models, name = "Model") => {
  const select = el("select", {}, ...models.map(model => el("option", { value: model.id }, model.id)));
  return [select, field(name, select)];
};

export function sampling() {
  const temperature = number(0.8, 0, 2, 0.1), length = number(128, 1, 4096), seed = number(0, 0, 2 ** 31);
  const row = el("div", { class: "row" }, field("Temperature", temperature), field("Tokens at most", length), field("Seed", seed));
  return [row, () => ({ temperature: +temperature.value, max_tokens: +length.value, seed: +seed.value })];
}
