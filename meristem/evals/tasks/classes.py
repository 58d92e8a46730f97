"""The class of a picture, as the model's own head says; beside it classifiers of the pixels without a network.

    meristem evaluate runs/vit --corpus CORPUS --tasks classes
"""
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from torch import nn

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.classic import beside, outcome
from meristem.evals.pictures import RAW, Pictured, apply, shape, vectors
from meristem.evals.subject import Subject
from meristem.evals.tasks.knn import nearest

METRIC = Metric("classes", "held-out pictures given their class", "share", "share", True)


class Classes(Pictured):
    """Items are labelled test pictures."""

    name, version, count = "classes", 1, 10_000
    metrics = (METRIC,)

    def fits(self, module: nn.Module) -> str:
        """A head of classes is needed."""
        return "" if vars(module.config).get("head") == "image" else "this model has no head of classes"

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The likeliest class of each picture."""
        assert isinstance(subject, Subject)
        return outcome(METRIC.name, said(subject.module, self.asked(items, *shape(subject.module)).pixels), items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Logistic regression, and beside it a random forest."""
        made = beside(METRIC.name, self.pool(RAW, 3), self.asked(items, RAW, 3), items, seed)
        first, *others = made.items()
        return {METRIC.name: first[1], **dict(others)}


def said(module: nn.Module, pixels: UInt8[np.ndarray, "N C H W"]) -> list[str]:
    """The name of the likeliest class of each picture."""
    labels = vars(module.config)["labels"]
    return [labels[i] for i in apply(module, module, pixels).argmax(1).tolist()]


def answered(task: Pictured, module: nn.Module, pixels: UInt8[np.ndarray, "N C H W"]) -> list[str]:
    """What a model calls pictures: by its head of classes, else by the nearest training pictures of the task."""
    if vars(module.config).get("head") == "image":
        return said(module, pixels)
    train = task.pool(*shape(module))
    return nearest(train.labels, vectors(module, train.pixels), vectors(module, pixels))


TASK = Classes()
