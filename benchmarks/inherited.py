"""Is a base's bias passed on (row H7), and what is toxic after which openings (row H10)? One base, six adapted models.

    python -m benchmarks.inherited DATA --out FOLDER [--seed 0] [--tiny]

DATA holds sentence-polarity, clinc150, banking77, winobias-winogender, bbq, hatecheck and toxicity-templates. The
base is that of `benchmarks.adaptation` (an `--out` of it is used again); it is adapted to film reviews, to bank
questions and to two groups of intents by LoRA, and to the first two by full fine-tuning. Base and adapted models are
asked the same items of the tasks swaps, winobias, winogender and bbq; for every metric stands the value of the base,
that of the adapted model, and the correlation of both item by item with a bootstrap interval
(`evals.homogeneity.inherited`): 1 where the adapted model leans as its base does. Task toxicity gives the share of
hateful continuations by bucket, and how often the filter itself errs. Interrupted, the same command goes on.
"""
import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import METHODS, adapt, base_of, cards, film, group, prepared
from benchmarks.common import record
from meristem.core.files import read_json
from meristem.corpus.labelled import labelled
from meristem.evals.homogeneity import inherited
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject

LEANING = ("swaps", "winobias", "winogender", "bbq")
BUCKETS = "toxicity"
ADAPTED = (("film", "lora"), ("banking", "lora"), ("intents-0", "lora"), ("intents-1", "lora"), ("film", "full"),
           ("banking", "full"))


def main() -> None:
    """Adapt, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="three steps and a few items, to see that it runs")
    given = parser.parse_args()
    start, tiny = time.process_time(), given.tiny
    base = base_of(given.data, given.out, 3 if tiny else 600)
    tasks = {"film": film(given.data), "banking": cards(given.data), "intents-0": group(given.data, 0),
             "intents-1": group(given.data, 1)}
    runs = []
    for name, how in ADAPTED[:2 if tiny else None]:
        folder = given.out / "inherited" / f"{name}-{how}"
        adapt(base, prepared(given.out / name, tasks[name]), folder, METHODS[how], given.seed, 3 if tiny else 120)
        runs.append(folder)
    corpus = labelled(given.out / "texts")
    found: dict[str, Any] = {"correlations": {}, "toxicity": {}}
    for folder in (base, *runs):
        scores = evaluate(Subject.open(folder), corpus, [*LEANING, BUCKETS], data=given.data, seed=given.seed,
                          limit=20 if tiny else 0, quick=True)
        found["toxicity"][folder.name] = {s.name: [round(x, 4) for x in (s.value, s.interval.low, s.interval.high)]
                                          + [s.n] for s in scores if s.task == BUCKETS}
    for task in LEANING:
        for metric in read_json(base / "evals" / f"{task}.json")["outcome"]["values"]:
            rows = inherited(base, runs, task, metric, given.seed)
            found["correlations"][metric] = {row.model: [round(x, 4) for x in (
                row.base, row.adapted, row.correlation, row.interval.low, row.interval.high)] for row in rows}
            print(metric, found["correlations"][metric], flush=True)
    means = {how: [row[2] for table in found["correlations"].values() for name, row in table.items()
                   if name.endswith(how) and np.isfinite(row[2])] for how in ("lora", "full")}
    found["mean correlation"] = {how: round(float(np.mean(some)), 4) for how, some in means.items() if some}
    record(f"inherited-{given.seed}{'-tiny' * tiny}", {
        **found, "cpu_minutes": round((time.process_time() - start) / 60, 2)})


if __name__ == "__main__":
    main()
