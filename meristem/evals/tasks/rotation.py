"""How well pictures are named when they are turned: the robustness curve over 0 to 180 degrees.

Training pictures are upright. A model with a head of classes answers by it, any other by its nearest training pictures.
Baseline: the nearest by pixels, turned in the same way. Asked by name, since it takes six passes over the test split:

    meristem evaluate runs/vit --corpus CORPUS --tasks rotation
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.data.views import turned
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.classic import outcome
from meristem.evals.pictures import RAW, Pictured, raw, shape
from meristem.evals.subject import Subject
from meristem.evals.tasks.classes import answered
from meristem.evals.tasks.knn import nearest

ON_REQUEST = RISK = True
DEGREES = (0, 15, 30, 60, 90, 180)
METRICS = {n: Metric(f"turned_{n}", f"held-out pictures turned by {n} degrees and given their class", "share", "share",
                     True) for n in DEGREES}


class Rotation(Pictured):
    """Items are labelled test pictures."""

    name, version, count = "rotation", 1, 2000
    metrics = tuple(METRICS.values())

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """One answer a picture and angle."""
        assert isinstance(subject, Subject)
        module, pixels = subject.module, self.asked(items, *shape(subject.module)).pixels
        return _outcome([answered(self, module, _turn(pixels, n)) for n in DEGREES], items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Nearest neighbours by pixels."""
        train, pixels = self.pool(RAW, 1), self.asked(items, RAW, 1).pixels
        said = _outcome([nearest(train.labels, raw(train.pixels), raw(_turn(pixels, n))) for n in DEGREES], items)
        return {metric.name: Baseline("nearest neighbours by pixels", said) for metric in self.metrics}


def _turn(pixels: UInt8[np.ndarray, "N C H W"], degrees: float) -> UInt8[np.ndarray, "N C H W"]:
    return turned(torch.from_numpy(np.array(pixels)).float(), degrees).round().to(torch.uint8).numpy()


def _outcome(columns: list[list[str]], items: Sequence[Item]) -> Outcome:
    each = [outcome(METRICS[n].name, said, items) for n, said in zip(DEGREES, columns, strict=True)]
    return Outcome({k: v for one in each for k, v in one.values.items()},
                   {k: v for one in each for k, v in one.weights.items()}, columns[0])


TASK = Rotation()
