"""Robustness to shift: how well pictures are named when they are corrupted in fifteen ways, beside the clean ones.

Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261 (`evals.corruptions`, severity 3). A model with a head of
classes answers by it, any other by its nearest training pictures; `corrupted_mean` is the mean over all fifteen.
Baseline: nearest by pixels, corrupted in the same way.

    meristem evaluate runs/vit --corpus CORPUS --tasks corruptions
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.classic import outcome
from meristem.evals.corruptions import CORRUPTIONS, corrupted
from meristem.evals.pictures import RAW, Pictured, raw, shape
from meristem.evals.subject import Subject
from meristem.evals.tasks.classes import answered
from meristem.evals.tasks.knn import nearest

ON_REQUEST = RISK = True
NAMES = ("clean", *CORRUPTIONS)
METRICS = (*(Metric(f"corrupted_{name}", f"held-out pictures given their class, {name.replace('_', ' ')}", "share",
                    "share", True) for name in NAMES),
           Metric("corrupted_mean", "held-out pictures given their class, mean over fifteen corruptions", "share",
                  "ratio", True))


class Corruptions(Pictured):
    """Items are labelled test pictures."""

    name, version, count = "corruptions", 1, 300
    metrics = METRICS

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """One answer a picture and corruption."""
        assert isinstance(subject, Subject)
        module, pixels = subject.module, self.asked(items, *shape(subject.module)).pixels
        columns = []
        for n, name in enumerate(NAMES):
            progress.update(n * len(items) // len(NAMES))
            columns.append(answered(self, module, _changed(pixels, name, seed)))
        return _outcome(columns, items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Nearest neighbours by pixels."""
        pool = self.pool(RAW, 3)
        train = raw(pool.pixels)
        pixels = self.asked(items, RAW, train.shape[1] // RAW**2).pixels           # noise must not colour grey pictures
        made = _outcome([nearest(pool.labels, train, torch.from_numpy(_changed(pixels, name, seed)).flatten(1) / 255)
                         for name in NAMES], items)
        return {metric.name: Baseline("nearest neighbours by pixels", made) for metric in METRICS}


def _changed(pixels: UInt8[np.ndarray, "N C H W"], name: str, seed: int) -> UInt8[np.ndarray, "N C H W"]:
    return pixels if name == "clean" else corrupted(pixels, name, seed=seed)


def _outcome(columns: list[list[str]], items: Sequence[Item]) -> Outcome:
    values = {f"corrupted_{name}": outcome("x", said, items).values["x"]
              for name, said in zip(NAMES, columns, strict=True)}
    rows = np.array([values[f"corrupted_{name}"] for name in NAMES[1:]])
    values["corrupted_mean"] = rows.mean(0).tolist()
    return Outcome(values, {name: [1.0] * len(items) for name in values}, columns[0])


TASK = Corruptions()
