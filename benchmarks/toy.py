"""In-context learning and long context on procedural text (FEATURES rows A3, B3 and A16).

    python -m benchmarks.toy --out runs/toy

`mapping`: recipe `mapping` on `toy:mapping`, then exact answers after 0, 4 and 23 worked examples; chance and the
look-up among the examples, which is the best anybody can do, stand beside. `needle`: recipe `needle` on texts of 128
characters, then exact answers in texts of 128, 256 and 512 with every rotary scaling at the factor of the length, by
thirds of the text in which the needle lies. The same call goes on where it was; the tables are benchmarks/results/
mapping.json and needle.json.
"""
import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core.config import edit, to_dict
from meristem.core.files import read_json
from meristem.core.progress import SILENT
from meristem.corpus import toy
from meristem.corpus.store import Corpus
from meristem.evals.base import measure
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks.exact_answer import METRIC, TASK
from meristem.recipes import recipes
from meristem.train.run import pretrain

SHOTS = (0, 4, 23)
TIMES = (1, 2, 4)
KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "yarn 1.25")      # a number: YaRN's amplitude
ASKED = 400
TEXTS = 2                               # seed of the texts; the amplitude 1.25 was chosen on 200 texts of seed 1


def trained(name: str, corpus: Corpus, out: Path, seed: int) -> tuple[Path, dict[str, Any]]:
    """The run folder of a recipe, and what its training was."""
    folder = out / f"{name}-{seed}"
    run = edit(recipes()[name](), {"data.corpus": str(corpus.folder), "seed": seed, "train.compile": False})
    pretrain(run, folder)
    result = read_json(folder / "result.json")
    return folder, {"seed": seed, "steps": result["step"], "validation": result["validation"],
                    "seconds": result["fit_seconds"]}


def mapping(out: Path, seed: int) -> None:
    """Exact answers by shots."""
    corpus = toy.make("mapping", out / "mapping.text")
    folder, facts = trained("mapping", corpus, out, seed)
    subject = Subject.open(folder)
    scores = [evaluate(subject, corpus, ["exact_answer"], shots=shots, limit=ASKED)[0] for shots in SHOTS]
    record("mapping", {**facts, "cpu_minutes": time.process_time() / 60, "scores": [to_dict(s) for s in scores]})


def needle(out: Path, seed: int) -> None:
    """Exact answers by length, scaling and depth."""
    folder, facts = trained("needle", toy.make("needle", out / "needle.text"), out, seed)
    context = int(recipes()["needle"]().train.context)
    table: dict[str, Any] = {}
    for times in TIMES:
        corpus = toy.make("needle", out / f"needle-{times}x.text", {"documents": 10 * ASKED, "length": context * times,
                                                                   "seed": TEXTS})
        for kind in KINDS if times > 1 else KINDS[:1]:
            scaling, _, amplitude = kind.partition(" ")
            subject = Subject.open(folder, stretch=(scaling, float(times), float(amplitude or 0)))
            items = TASK.items(corpus, subject.codec, ASKED, 0)
            outcome = TASK.run(subject, items, 0, SILENT)
            value, interval = measure(METRIC, outcome, [i.group for i in items], 0)
            right = np.array(outcome.values[METRIC.name])
            depth = np.array([i.prompt.index(f"{i.prompt[-len('code K'):]}{i.answer}.") / len(i.prompt) for i in items])
            thirds = [round(float(right[depth * 3 // 1 == third].mean()), 4) for third in range(3)]
            table[f"{times}x {kind}"] = {"value": value, "low": interval.low, "high": interval.high, "n": len(items),
                                         "by_depth": thirds}
            print(f"{times}x {kind}", table[f"{times}x {kind}"], flush=True)
    record("needle", {**facts, "context": context, "cpu_minutes": time.process_time() / 60, "accuracy": table})


def main() -> None:
    """Both, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["mapping", "needle"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, evidence in (("mapping", mapping), ("needle", needle)):
        if given.only in (None, name):
            evidence(given.out, given.seed)


if __name__ == "__main__":
    main()
