"""What a straight cut through an encoder's space can tell apart, with 10, 50, 200, 1,000 or all labels.

Logistic regression on frozen vectors (Alain & Bengio 2016, https://arxiv.org/abs/1610.01644; as DINO is judged, Caron
et al. 2021, https://arxiv.org/abs/2104.14294, section 4.1). Labels are drawn five times, as many of each class as can
be, and an item's value is the share of the five that get it right: the label-efficiency curve. The baselines are the
same regression, and a random forest, on the pixels of the same pictures at 28 x 28.

    meristem evaluate runs/dino --corpus CORPUS --tasks linear_probe
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.classic import Logistic, forest
from meristem.evals.pictures import RAW, Pictured, numbers, raw, shape, vectors
from meristem.evals.subject import Subject

LABELS = (10, 50, 200, 1000, 0)         # 0: all there are
DRAWS = 5
FEW, FIRM = 50, 0.1                     # with fewer labels none are left to choose the decay by: this one
METRICS = tuple(Metric(f"probe_{n or 'all'}", f"held-out pictures labelled by a linear probe with {n or 'all'} labels",
                       "share", "ratio", True) for n in LABELS)


class LinearProbe(Pictured):
    """Items are labelled test pictures."""

    name, version, count = "linear_probe", 1, 10_000
    metrics = METRICS

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Vectors of the training pictures and of the items, then the regressions."""
        assert isinstance(subject, Subject)
        side, channels = shape(subject.module)
        train, test = self.pool(side, channels), self.asked(items, side, channels)
        x, more = vectors(subject.module, train.pixels), vectors(subject.module, test.pixels)
        return _outcome([curve(x, train.labels, more, items, n, seed) for n in LABELS])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The same on pixels, and a forest beside it."""
        train, test = self.pool(RAW, 3), self.asked(items, RAW, 3)
        x, more = raw(train.pixels), raw(test.pixels)
        made: dict[str, Baseline] = {}
        for metric, n in zip(METRICS, LABELS, strict=True):
            own = curve(x, train.labels, more, items, n, seed)
            made[metric.name] = Baseline("logistic regression on pixels", _outcome([own], [metric]))
            trees = curve(x, train.labels, more, items, n, seed, trees=True)
            if trees:
                made[f"{metric.name}/forest"] = Baseline("random forest on pixels", _outcome([trees], [metric]))
        return made


def curve(x: Float[Tensor, "N E"], labels: list[str], more: Float[Tensor, "M E"], items: Sequence[Item], count: int,
          seed: int, trees: bool = False) -> list[float]:
    """For each item, the share of the draws of `count` labels after which it is labelled right; [] without a forest."""
    names, (classes,) = numbers(labels)
    place = {name: number for number, name in enumerate(names)}
    answers = torch.tensor([place.get(item.answer, -1) for item in items])
    right = torch.zeros(len(items))
    draws = DRAWS if 0 < count < len(x) else 1
    for draw in range(draws):
        rows = torch.from_numpy(chosen(classes.numpy(), count, seed_of(seed, "probe", draw)))
        own, some = classes[rows], x[rows]
        if trees:
            found = forest(some, own, more, seed_of(seed, "forest", draw))
            if found is None:
                return []
        else:
            fitted = (Logistic.fit(some, own, len(names), FIRM) if len(rows) < FEW
                      else Logistic.tuned(some, own, len(names), draw))
            found = fitted.classes(more)
        right += found == answers
    return (right / draws).tolist()


def chosen(classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` rows (0: all) in which no class has more than one row more than another that has rows left."""
    order = np.random.default_rng(seed).permutation(len(classes))
    seen: dict[int, int] = {}
    turn = [seen.update({c: seen.get(c, -1) + 1}) or seen[c] for c in classes[order].tolist()]
    return order[np.argsort(turn, kind="stable")][:count or None]


def _outcome(columns: list[list[float]], metrics: Sequence[Metric] = METRICS) -> Outcome:
    values = {metric.name: column for metric, column in zip(metrics, columns, strict=True)}
    return Outcome(values, {name: [1.0] * len(column) for name, column in values.items()}, [])


TASK = LinearProbe()
