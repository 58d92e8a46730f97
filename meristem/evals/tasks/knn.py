"""Nearest neighbours: the label of a picture is that of the training pictures whose vectors lie nearest to its own.

Nothing is trained, so the score says what an encoder's space is like: Wu et al. 2018,
https://arxiv.org/abs/1805.01978, section 3.4, as DINO judges features (Caron et al. 2021,
https://arxiv.org/abs/2104.14294, section 4.1): the 10 nearest by cosine vote with weight exp(cosine / 0.07). The
baselines look at the pixels: the same vote of the same pictures at 28 x 28, logistic regression, a random forest.

    meristem evaluate runs/dino --corpus CORPUS --tasks knn --against runs/untrained
"""
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.classic import beside, outcome
from meristem.evals.pictures import RAW, Pictured, numbers, raw, shape, vectors
from meristem.evals.subject import Subject

NEIGHBOURS, TEMPERATURE = 10, 0.07
TOGETHER = 1024
METRIC = Metric("knn", f"held-out pictures labelled by the {NEIGHBOURS} nearest training pictures", "share", "share",
                True)


class Knn(Pictured):
    """Items are labelled test pictures."""

    name, version, count = "knn", 1, 10_000
    metrics = (METRIC,)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Vectors of the training pictures and of the items, then the vote."""
        assert isinstance(subject, Subject)
        side, channels = shape(subject.module)
        train, test = self.pool(side, channels), self.asked(items, side, channels)
        said = nearest(train.labels, vectors(subject.module, train.pixels), vectors(subject.module, test.pixels))
        return outcome(METRIC.name, said, items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The same vote over pixels; classifiers of pixels beside it."""
        train, test = self.pool(RAW, 3), self.asked(items, RAW, 3)
        own = outcome(METRIC.name, nearest(train.labels, raw(train.pixels), raw(test.pixels)), items)
        return {METRIC.name: Baseline("nearest neighbours by pixels", own),
                **beside(METRIC.name, train, test, items, seed)}


def vote(train: Float[Tensor, "N E"], classes: Int[Tensor, "N"], test: Float[Tensor, "M E"],
         neighbours: int = NEIGHBOURS) -> Int[Tensor, "M"]:
    """The class of each row of `test`: its nearest rows of `train` by cosine vote with exp(cosine / 0.07)."""
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    count = int(classes.max()) + 1
    found = []
    for some in test.split(TOGETHER):
        close, at = (some @ train.T).topk(min(neighbours, len(train)), 1)
        votes = torch.zeros(len(some), count).scatter_add(1, classes[at], ((close - 1) / TEMPERATURE).exp())
        found.append(votes.argmax(1))
    return torch.cat(found)


def nearest(labels: list[str], train: Float[Tensor, "N E"], test: Float[Tensor, "M E"]) -> list[str]:
    """The label that the vote of `train` gives each row of `test`."""
    names, (classes,) = numbers(labels)
    return [names[i] for i in vote(train, classes, test).tolist()]


TASK = Knn()
