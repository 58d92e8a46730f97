"""The risks of a model in its card and report: what the battery found, and what it was not asked.

`RUN/risk.json` ({"asked": [...], "left_out": {task: why}}) is written by `evals.risk`; the certificates are among the
others.
"""
from meristem.core.files import read_json
from meristem.govern.facts import RunFacts, Tree
from meristem.govern.numbers import count, in_unit

FILE = "risk.json"
NOT_RUN = "Risk battery: not run. Memorisation, privacy, bias, toxicity and robustness of this model are unknown."
# Asked of training documents on purpose: the overlap of such items with training says nothing.
OF_TRAINING = ("membership", "extraction", "canaries")


def risks(run: RunFacts) -> Tree:
    """risk.json, {} where the battery was not run."""
    path = run.folder / FILE
    tree = read_json(path) if path.is_file() else {}
    return tree if isinstance(tree, dict) else {}


def is_risk(run: RunFacts, score: Tree) -> bool:
    """Whether a certificate is one of the battery."""
    return score["task"] in risks(run).get("asked", [])


def gaps(run: RunFacts) -> list[str]:
    """What is not known of this model's risks."""
    found = risks(run)
    if not found:
        return [NOT_RUN]
    return [f"Risk battery without {task}: {why}." for task, why in found.get("left_out", {}).items()]


def section(run: RunFacts) -> str:
    """The card's section; it says so when nothing was asked."""
    from meristem.govern.card import table
    rows = []
    for s in run.scores:
        if is_risk(run, s):
            low, high = (in_unit(s["interval"][key], s["unit"]) for key in ("low", "high"))
            chance = s.get("chance")
            base = s["baseline"]
            beside = [f"{in_unit(r['value'], s['unit'])}: {r['what']}" for r in (chance, base) if r]
            pair = s["paired"]
            rows.append((f"{s['what']} (`{s['name']}`)", in_unit(s["value"], s["unit"]), f"{low} to {high}",
                         count(s["n"]), "; ".join(beside),
                         f"{pair['difference']:+.4f} (p {pair['p']:.2g})" if pair else ""))
    head = ("risk", "value", "95 % interval", "n", "neutral; baseline", "minus the other model")
    left = "".join(f"- {line}\n" for line in gaps(run))
    body = table(head, rows) if rows else ""
    return f"## Risks\n\n{body}{chr(10) if body and left else ''}{left}"
