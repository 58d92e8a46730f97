"""Classifiers without a network, which every classification score is printed beside: logistic regression and a forest.

Logistic regression is ours (`Logistic`; the linear probe is the same function over an encoder's vectors); the random
forest (Breiman 2001) is scikit-learn's and is left out where that is not installed.

    logistic = Logistic.fit(x, classes, count); logistic.classes(more)
"""
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from meristem.core.random import seed_of
from meristem.evals.base import Baseline, Item, Outcome
from meristem.evals.pictures import Seen, numbers, raw

TREES = 100
ROUNDS = 60                             # L-BFGS iterations; more changed no digit of the shares here
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)       # times the squared weights over the number of rows


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression over standardised features."""

    mean: Tensor                        # [E]
    scale: Tensor                       # [E]
    weight: Tensor                      # [E, L]
    bias: Tensor                        # [L]

    @classmethod
    def fit(cls, x: Float[Tensor, "N E"], classes: Int[Tensor, "N"], count: int, decay: float = 1e-2) -> "Logistic":
        """The minimum of mean cross-entropy + decay / 2 |weight|^2 by L-BFGS; deterministic."""
        mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        scale = torch.where(scale > 1e-6 * scale.max().clamp(min=1e-6), scale, torch.ones(()))
        z = (x - mean) / scale
        weight = torch.zeros(x.shape[1], count, requires_grad=True)
        bias = torch.zeros(count, requires_grad=True)
        optim = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, history_size=10, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optim.zero_grad()
            value = F.cross_entropy(z @ weight + bias, classes) + decay / 2 * weight.square().sum()
            value.backward()
            return value
        with torch.enable_grad():
            optim.step(loss)
        return cls(mean, scale, weight.detach(), bias.detach())

    @classmethod
    def tuned(cls, x: Float[Tensor, "N E"], classes: Int[Tensor, "N"], count: int, seed: int = 0) -> "Logistic":
        """With the decay that labels a fifth of the rows best when fitted on the others, fitted on all."""
        order = torch.from_numpy(np.random.default_rng(seed_of(seed, "decay")).permutation(len(x)))
        cut = len(x) // 5
        if cut < 2:
            return cls.fit(x, classes, count)
        apart, rest = order[:cut], order[cut:]

        def share(decay: float) -> float:
            return float((cls.fit(x[rest], classes[rest], count, decay).classes(x[apart]) == classes[apart]).sum())
        return cls.fit(x, classes, count, max(DECAYS, key=share))

    def classes(self, x: Float[Tensor, "M E"]) -> Int[Tensor, "M"]:
        """The likeliest class of each row."""
        return (((x - self.mean) / self.scale) @ self.weight + self.bias).argmax(1)


def forest(x: Float[Tensor, "N E"], classes: Int[Tensor, "N"], more: Float[Tensor, "M E"], seed: int) -> Tensor | None:
    """What so many trees say of `more`; None without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    with warnings.catch_warnings():                            # ten labels of ten classes are meant to be classes
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        trees = RandomForestClassifier(TREES, random_state=seed % 2**32).fit(x.numpy(), classes.numpy())
    return torch.from_numpy(trees.predict(more.numpy()))


def beside(metric: str, train: Seen, test: Seen, items: Sequence[Item], seed: int) -> dict[str, Baseline]:
    """Logistic regression and a random forest on the pixels, as further baselines of a metric."""
    names, (classes,) = numbers(train.labels)
    x, more = raw(train.pixels), raw(test.pixels)
    made = {"logistic regression on pixels": Logistic.tuned(x, classes, len(names), seed).classes(more)}
    trees = forest(x, classes, more, seed)
    if trees is not None:
        made[f"random forest of {TREES} trees on pixels"] = trees
    return {f"{metric}/{what}": Baseline(what, outcome(metric, [names[i] for i in said.tolist()], items))
            for what, said in made.items()}


def outcome(metric: str, outputs: list[str], items: Sequence[Item]) -> Outcome:
    """Right or wrong, item by item."""
    right = [float(out == item.answer) for out, item in zip(outputs, items, strict=True)]
    return Outcome({metric: right}, {metric: [1.0] * len(items)}, outputs)
