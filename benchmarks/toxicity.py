"""What an n-gram classifier of toxicity gets right on HateCheck: `python -m benchmarks.toxicity --data DATA`.

Folders hatecheck (Roettger et al. 2021, functional tests: 29 kinds of sentences) and toxicity-templates (Jigsaw's
synthetic identity sentences). Two rows. "templates": trained on Jigsaw's sentences alone, judged on all of HateCheck.
"folds": trained on four fifths of HateCheck's templates and judged on the other fifth, five times, so that no sentence
is judged by a model that saw its template. Ours is recipe `quality` read by the stage's own numpy; beside it
scikit-learn's logistic regression on words and bigrams, on the same rows. Accuracy and F1 of "hateful", bootstrap
intervals over templates. `--tiny` trains 30 steps and one fold.
"""
import argparse
import csv
import gzip
import json
import random
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core.config import edit
from meristem.corpus.linear import Linear
from meristem.recipes.curation import quality
from meristem.train.run import pretrain

FOLDS, STEPS = 5, 600
Rows = list[tuple[str, str, str, str]]   # text, label, function, template


def read(folder: Path) -> tuple[Rows, Rows]:
    """HateCheck, and a balanced sample of Jigsaw's sentences."""
    with gzip.open(folder / "hatecheck" / "test_suite_cases.csv.gz", "rt") as f:
        hate = [(row["test_case"], "toxic" if row["label_gold"] == "hateful" else "fine", row["functionality"],
                 row["templ_id"]) for row in csv.DictReader(f)]
    with gzip.open(folder / "toxicity-templates" / "en_sentence_templates.csv.gz", "rt") as f:
        made = [(row["phrase"], "toxic" if row["toxicity"] == "toxic" else "fine", "", "") for row in csv.DictReader(f)]
    random.Random(0).shuffle(made)
    return hate, made[:20_000]


def ours(train: Rows, test: Rows, steps: int) -> list[bool]:
    """Whether each test row is called toxic."""
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name) / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label, *_ in train))
        run = edit(quality(), {"data.corpus": str(rows), "train.steps": steps, "train.context": 64})
        model = Linear.open(str(pretrain(replace(run), Path(name) / "run")))
        return (model.probabilities([row[0] for row in test])[:, model.number("toxic")] > 0.5).tolist()


def theirs(train: Rows, test: Rows) -> list[bool]:
    """The same by scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform([r[0] for r in train]),
                                                       [r[1] == "toxic" for r in train])
    return model.predict(words.transform([r[0] for r in test])).tolist()


def scores(test: Rows, called: list[bool]) -> dict[str, Any]:
    """Accuracy and F1 with intervals over templates."""
    places = defaultdict(list)
    for n, row in enumerate(test):
        places[row[3]].append(n)
    truth, said = np.array([row[1] == "toxic" for row in test]), np.array(called)
    counts = np.array([[(truth[p] == said[p]).sum(), len(p), (truth[p] & said[p]).sum(), truth[p].sum() + said[p].sum()]
                       for p in map(np.array, places.values())])
    drawn = counts[np.random.default_rng(0).integers(0, len(counts), (5000, len(counts)))].sum(1)
    out: dict[str, Any] = {"n": len(test), "templates": len(counts)}
    for name, (a, b, factor) in {"accuracy": (0, 1, 1), "f1": (2, 3, 2)}.items():
        share, total = factor * drawn[:, a] / np.maximum(1, drawn[:, b]), counts.sum(0)
        whole = factor * total[a] / max(1, total[b])
        out[name] = [round(float(v), 3) for v in (whole, *np.quantile(share, [0.025, 0.975]))]
    return out


def functions(test: Rows, called: list[bool]) -> dict[str, float]:
    """Accuracy by HateCheck's function."""
    right = defaultdict(list)
    for row, said in zip(test, called, strict=True):
        right[row[2]].append((row[1] == "toxic") == said)
    return {name: round(float(np.mean(some)), 3) for name, some in sorted(right.items())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    hate, made = read(args.data)
    steps, began = 30 if args.tiny else STEPS, time.process_time()
    facts: dict[str, Any] = {}
    every = {"always toxic": [True] * len(hate), "ours": ours(made, hate, steps), "scikit-learn": theirs(made, hate)}
    facts["templates"] = {name: scores(hate, called) for name, called in every.items()}
    tested: Rows = []
    folds: dict[str, list[bool]] = {"ours": [], "scikit-learn": []}
    order = sorted({row[3] for row in hate})
    random.Random(0).shuffle(order)
    for fold in range(1 if args.tiny else FOLDS):
        held = set(order[fold::FOLDS])
        train, test = ([row for row in hate if (row[3] in held) == inside] for inside in (False, True))
        folds["ours"] += ours(train, test, steps)
        folds["scikit-learn"] += theirs(train, test)
        tested += test
    facts["folds"] = {name: scores(tested, called) for name, called in folds.items()}
    facts |= {"by_function": functions(tested, folds["ours"]), "cpu_seconds": round(time.process_time() - began, 1)}
    print(json.dumps(facts)) if args.tiny else record("toxicity", facts)


if __name__ == "__main__":
    main()
