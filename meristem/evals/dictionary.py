"""Sparse autoencoders judged where the truth is known: how many of the features that made the data are found again?

    data = Toy(features=64, width=32); found = recovery(learn(data, seed=0), data)     # Recovery(0.97, interval, n=64)

Toy models of superposition (Elhage et al. 2022, https://arxiv.org/abs/2209.10652) with more features than dimensions,
as in Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders": every feature is a random
direction, is there with a small probability and then has a random strength. A feature is recovered when some direction
of the dictionary has a cosine of at least COSINE with it. `learn` runs the ordinary trainer.
"""
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.random import seed_of
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.evals.statistics import Interval, wilson
from meristem.nn.dictionary import Config, Dictionary
from meristem.objectives.base import make
from meristem.train.trainer import Trainer

COSINE = 0.9
ROWS = 512                              # of a batch
LARGER = 2                              # directions for each feature


@dataclass(frozen=True)
class Toy:
    """Activations made of known features."""

    features: int = 64
    width: int = 32
    share: float = 0.05                 # of the rows in which a feature is present
    seed: int = 0

    def directions(self) -> Float[Tensor, "F E"]:
        """The features, of length 1."""
        rng = np.random.default_rng(seed_of(self.seed, "features"))
        made = torch.from_numpy(rng.standard_normal((self.features, self.width)).astype(np.float32))
        return nn.functional.normalize(made, dim=-1)

    def rows(self, count: int, step: int) -> Float[Tensor, "B E"]:
        """Activations of one step."""
        rng = np.random.default_rng(seed_of(self.seed, "rows", step))
        there = rng.random((count, self.features)) < self.share
        codes = torch.from_numpy((there * (0.5 + rng.random((count, self.features)))).astype(np.float32))
        return codes @ self.directions()


@dataclass(frozen=True)
class Recovery:
    """The share of the features that were found, with Wilson's interval."""

    value: float
    interval: Interval
    n: int


def learn(data: Toy, seed: int = 0, steps: int = 2000) -> Dictionary:
    """A dictionary of the data's activations."""
    torch.manual_seed(seed_of(seed, "dictionary"))
    model = Dictionary(Config(data.width, LARGER * data.features))
    objective = make("dictionary", model, {"sparsity": 0.15})

    def source(step: int) -> list[Batch]:
        return [{"activations": data.rows(ROWS, step)}]
    config = Train(steps=steps, batch=ROWS, lr=3e-3, weight_decay=0.0, warmup=50, guard=False, dtype="float32",
                   compile=False)
    Trainer(objective, source, config, seed=seed).fit()
    return model


def recovery(model: Dictionary, data: Toy) -> Recovery:
    """How many features have a direction of their own."""
    cosine = nn.functional.normalize(model.directions.detach(), dim=-1) @ data.directions().T  # [S, F]
    found = int((cosine.amax(0) >= COSINE).sum())
    return Recovery(found / data.features, wilson(found, data.features), data.features)
