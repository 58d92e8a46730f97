// A page is made of elements; text always goes in as text, never as markup.

export function el(tag, fields = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(fields)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for" || key === "list") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...inside.filter(one => one !== null && one !== undefined));
  return made;
}

export function svg(tag, fields = {}, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(fields)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

let count = 0;
export function field(text, input, tall = false) {             // a label that names its input
  input.id ||= `field-${++count}`;
  return el("label", { for: input.id, class: tall ? "tall" : "" }, text, input);
}

export const number = (value, min, max, step = 1) => el("input", { type: "number", value, min, max, step });
export const area = (placeholder, kind = "") => el("textarea", { placeholder, class: kind });
export const button = (text, does, kind = "") => el("button", { type: "button", class: kind, onclick: does }, text);

export function alert(text) { document.getElementById("alert").textContent = text; }
export function status(text) { document.getElementById("status").textContent = text; }

export async function guarded(work) {                          // errors are one line above the panel
  alert("");
  try { return await work(); } catch (error) {
    if (error.name !== "AbortError") alert(error.message);
    return undefined;
  }
}

export function tokens(place, list, shown) {                   // [{text, logprob, instead: [[text, logprob]]}]
  place.replaceChildren(...list.map(one => {
    const share = Math.exp(one.logprob), made = el("span", { class: "token" }, one.text);
    if (one.logprob === null || one.logprob === undefined) return made;
    const instead = (one.instead || []).map(([text, p]) => `${JSON.stringify(text)} ${(100 * Math.exp(p)).toFixed(1)} %`);
    made.title = `${JSON.stringify(one.text)} ${(100 * share).toFixed(1)} %` + (instead.length ? `\n${instead.join("\n")}` : "");
    if (shown) {
      made.tabIndex = 0;
      made.setAttribute("aria-label", made.title);
      made.style.backgroundColor = `hsl(${Math.round(120 * share)} 70% 50% / .3)`;
    }
    return made;
  }));
}
