// The page at /: a tab for each thing the served models can do, and what the server's runs look like.
import { json } from "./api.js";
import { chat } from "./chat.js";
import { compare } from "./compare.js";
import { complete } from "./complete.js";
import { el, guarded, status } from "./dom.js";
import { pictures } from "./pictures.js";
import { runs } from "./runs.js";
import { see } from "./see.js";
import { act, films, hear, proteins } from "./senses.js";

const TABS = [                          // name, what a model must be able to do for it, what fills it
  ["Chat", ["chat"], chat], ["Compare", ["chat", "completions"], compare], ["Complete", ["completions"], complete],
  ["Pictures", ["images.generate", "images.edit", "images.vary"], pictures], ["See", ["zero_shot", "segment"], see],
  ["Hear", ["audio.transcriptions", "audio.zero_shot"], hear], ["Films", ["films.generate"], films], ["Proteins", ["residues"], proteins],
  ["Act", ["act"], act], ["Runs", null, runs]];

const list = document.getElementById("tabs"), panels = document.getElementById("panels");

function open(n, focus = false) {
  [...list.children].forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === n);
    tab.tabIndex = i === n ? 0 : -1;
    panels.children[i].hidden = i !== n;
    if (i === n && focus) tab.focus();
  });
  history.replaceState(null, "", `#${list.children[n].textContent.toLowerCase()}`);
  panels.children[n].dispatchEvent(new Event("opened"));
}

list.addEventListener("keydown", event => {                    // the arrow keys of a tab list (WAI-ARIA practices)
  const now = [...list.children].indexOf(document.activeElement), last = list.children.length - 1;
  const next = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  open(next, true);
});

async function begin() {
  const told = await guarded(() => json("/v1/models"));
  const models = told ? told.data : [];
  list.replaceChildren();
  panels.replaceChildren();
  for (const [name, needs, fill] of TABS) {
    const able = needs ? models.filter(model => needs.some(one => (model.can || []).includes(one))) : models;
    if (needs && !able.length) continue;
    const n = list.children.length, id = name.toLowerCase();
    list.append(el("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`,
                               onclick: () => open(n) }, name));
    const panel = el("section", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true });
    panels.append(panel);
    fill(panel, able);
  }
  const asked = [...list.children].findIndex(tab => `#${tab.textContent.toLowerCase()}` === location.hash);
  open(Math.max(0, asked));
  document.getElementById("verified").textContent = models.length && models.every(model => model.verified)
    ? "Every served model is the trained one: its files were compared with their manifest." : "A model here has no manifest, so its files could not be checked.";
  status(told ? `${models.length} model${models.length === 1 ? "" : "s"} served` : "");
}

document.getElementById("key").addEventListener("change", begin);
begin();
