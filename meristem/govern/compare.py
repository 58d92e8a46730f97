"""A page on which a person says which of two answers is better, and a preference file of the clicks.

    write(Path("compare.html"), [Pair("2 + 2?", ("4", "5"), ("runs/sft", "runs/dpo")), ...], seed=0)

One file without a server, a script from elsewhere or a network: it is opened in a browser, the clicks are kept there
until they are saved as preferences.jsonl (prompt, chosen, rejected, whose), which `meristem adapt MODEL reward` and
`dpo` read and `meristem votes` counts. Which answer stands left is drawn by the seed and whose it is is not shown.
Keys: left, right, and down for "equal or both bad", which is not saved.
"""
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError
from meristem.core.files import write_bytes
from meristem.core.random import seed_of

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Which answer is better?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 0; }
#asked { background: #f2f2f2; padding: 1rem; border-radius: .5rem; }
#answers { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin: 1rem 0; }
button { font: inherit; padding: 1rem; border: 1px solid #888; border-radius: .5rem; background: #fff;
  cursor: pointer; }
#answers button { text-align: left; vertical-align: top; }
button:hover, button:focus { border-color: #06c; outline: 2px solid #06c; }
@media (prefers-color-scheme: dark) { body, button { background: #111; color: #eee; } #asked { background: #222; } }
</style>
<h1>Which answer is better?</h1>
<p id="where" role="status"></p>
<div id="asked"><pre id="prompt"></pre></div>
<div id="answers"><button id="left"><pre></pre></button><button id="right"><pre></pre></button></div>
<p><button id="equal">Equal, or both bad</button> <button id="back">Back</button> <button id="save">Save
preferences.jsonl</button></p>
<script id="pairs" type="application/json">PAIRS</script>
<script>
"use strict";
const pairs = JSON.parse(document.getElementById("pairs").textContent), key = "meristem-KEY";
const at = id => document.getElementById(id);
let clicks = JSON.parse(localStorage.getItem(key) || "[]");
function show() {
  const n = clicks.length, pair = pairs[n];
  at("where").textContent = n < pairs.length ? (n + 1) + " of " + pairs.length : "All " + n + " are judged: save them.";
  at("prompt").textContent = pair ? pair.prompt : "";
  for (const [i, side] of ["left", "right"].entries()) {
    at(side).firstChild.textContent = pair ? pair.answers[i] : "";
    at(side).hidden = !pair;
  }
}
function judge(choice) {
  if (clicks.length < pairs.length) { clicks.push(choice); localStorage.setItem(key, JSON.stringify(clicks)); show(); }
}
function rows() {
  return clicks.map((choice, n) => [choice, pairs[n]]).filter(([choice]) => choice >= 0).map(([choice, pair]) =>
    JSON.stringify({ prompt: pair.asked, chosen: pair.answers[choice], rejected: pair.answers[1 - choice],
      model_chosen: pair.models[choice], model_rejected: pair.models[1 - choice] }) + "\\n");
}
at("left").onclick = () => judge(0);
at("right").onclick = () => judge(1);
at("equal").onclick = () => judge(-1);
at("back").onclick = () => { clicks.pop(); localStorage.setItem(key, JSON.stringify(clicks)); show(); };
at("save").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(rows(), { type: "application/jsonl" }));
  link.download = "preferences.jsonl";
  link.click();
};
document.onkeydown = event => {
  const choice = { ArrowLeft: 0, ArrowRight: 1, ArrowDown: -1 }[event.key];
  if (choice !== undefined) { event.preventDefault(); judge(choice); }
};
show();
</script></html>
"""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt: a text, or messages that end with the user's."""

    prompt: str | list[dict[str, Any]]
    answers: tuple[str, str]
    models: tuple[str, str] = ("", "")  # whose they are: not shown, kept in what is saved (`meristem votes`)


def write(path: Path, pairs: Sequence[Pair], seed: int = 0) -> int:
    """Write the page and return how many pairs it asks about: equal and empty answers are left out.

    RequestError when none is left.
    """
    kept = [pair for pair in pairs if all(a.strip() for a in pair.answers) and pair.answers[0] != pair.answers[1]]
    if not kept:
        raise RequestError(f"none of {len(pairs)} pairs has two different answers, so there is nothing to compare")
    rows = []
    for number, pair in enumerate(kept):
        turned = seed_of(seed, "side", number) % 2
        rows.append({"prompt": _shown(pair.prompt), "asked": pair.prompt,
                     "answers": list(pair.answers[::-1] if turned else pair.answers),
                     "models": list(pair.models[::-1] if turned else pair.models)})
    text = json.dumps(rows, ensure_ascii=True).replace("<", "\\u003c")         # no answer can end the script it is in
    key = f"{seed_of(text):x}"
    write_bytes(path, PAGE.replace("KEY", key).replace("PAIRS", text).encode())
    return len(rows)


def _shown(prompt: str | list[dict[str, Any]]) -> str:
    """A prompt as a person reads it."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m.get('content', '')}" for m in prompt)
