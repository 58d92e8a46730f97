"""Half the layers of an encoder with a teacher and without one (DistilBERT, Sanh et al. 2019; row A8 of the features).

    python -m benchmarks.encoders SENTENCES --out runs/encoders     # first: its masked model is the teacher
    python -m benchmarks.distilled --out runs/encoders

Two students of recipe distilbert, of one seed, see the same text in the same order for as many steps: one learns from
the teacher as well (soft targets, hidden words, direction of the features), one from the hidden words alone. The score
is a probe: logistic regression on the mean of the last features (scikit-learn, features scaled to variance 1), fitted
on all labelled sentences but the 2,000 of the test. The same probe of a student that was never trained, and logistic
regression on word counts, stand beside. Intervals are of the paired difference over the test sentences (95 %, normal).
"""
import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import meristem
from benchmarks.common import record
from benchmarks.encoders import on_word_counts, rows_of
from meristem.core.config import Part, parse_edits
from meristem.core.random import seed_of
from meristem.generate.encode import embed
from meristem.recipes import resolve
from meristem.train.run import pretrain

Rows = list[tuple[str, str]]


def probe(model: Any, train: Rows, test: Rows) -> np.ndarray:
    """Whether the probe is right on each test row."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
    (x, y), (z, want) = (zip(*rows, strict=True) for rows in (train, test))
    known, asked = (embed(model.module, model.codec, texts, cut=True).numpy() for texts in (x, z))
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1)).fit(known, y)
    return fitted.predict(asked) == np.array(want)


def untrained(model: Any, seed: int) -> Any:
    """The same network with fresh weights."""
    torch.manual_seed(seed_of(seed, "weights"))
    return replace(model, module=type(model.module)(model.config).eval())


def difference(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Points by which `a` is better, and half of the 95 % interval."""
    gap = a.astype(float) - b
    return [round(100 * gap.mean(), 2), round(100 * 1.96 * gap.std() / math.sqrt(len(gap)), 2)]


def main() -> None:
    """Train both students, probe, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--edits", nargs="*", default=[], help="fields of the distilbert recipe, train.steps=3000")
    given = parser.parse_args()
    text, teacher = given.out / "text.corpus", given.out / "base"
    train = [row for row in rows_of(text, "train") if row[1] in ("neg", "pos")]
    test, started = rows_of(text, "test"), time.process_time()
    run, _ = resolve("distilbert", {"data.corpus": str(text), "objective.teacher": str(teacher),
                                    **parse_edits(given.edits)})
    alone = replace(run, objective=Part("masked"))
    models = {name: meristem.load(folder) for name, folder in {
        "teacher": teacher, "distilled": pretrain(run, given.out / "distilled"),
        "alone": pretrain(alone, given.out / "alone")}.items()}
    right = {name: probe(model, train, test) for name, model in models.items()}
    right["untrained"] = probe(untrained(models["alone"], 0), train, test)
    results = {name: json.loads((given.out / name / "result.json").read_text()) for name in ("distilled", "alone")}
    record("distilled", {
        "labelled": len(train), "test": len(test), "steps": run.train.steps,
        "accuracy": {name: round(float(ok.mean()), 4) for name, ok in right.items()}
        | {"bag_of_words": on_word_counts(train, test, 0, forest=False)["bag_of_words"]},
        "kept": round(float(right["distilled"].mean() / right["teacher"].mean()), 4),
        "over_alone_points": difference(right["distilled"], right["alone"]),
        "below_teacher_points": difference(right["teacher"], right["distilled"]),
        "parameters": {name: sum(p.numel() for p in model.module.parameters()) for name, model in models.items()},
        "flops": {name: result["flops"] for name, result in results.items()},
        "cpu_minutes": round((time.process_time() - started) / 60, 1)})


if __name__ == "__main__":
    main()
