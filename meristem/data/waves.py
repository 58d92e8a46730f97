"""Procedural series with known noise: a season, a trend and what autoregressive noise adds.

    meristem curate toy:waves documents=60 --out runs/waves

Every series has a period of its own (8 to 24), a shape of three harmonics, a slope, and noise of a known deviation, so
that the best possible intervals are known. Everything is a function of the fields and the seed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus


@dataclass(frozen=True)
class Waves:
    """What series are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 100
    seed: int = 0
    length: int = 300
    noise: float = 0.3                  # over the season's deviation
    memory: float = 0.6                 # of the noise, from one number to the next

    def __post_init__(self) -> None:
        if self.documents < 1 or self.length < 20 or not 0 <= self.memory < 1 or self.noise < 0:
            raise RequestError("toy:waves has a document, 20 numbers or more, noise of 0 or more with memory below 1, "
                               f"not {self}")

    def series(self, split: str, number: int) -> list[float]:
        """The numbers of one series."""
        rng = np.random.default_rng(seed_of("waves", self.seed, split, number))
        at, period = np.arange(self.length), rng.integers(8, 25)
        wave = np.sum([rng.normal() / k * np.cos(2 * np.pi * k * at / period + rng.uniform(0, 6.3))
                       for k in (1, 2, 3)], axis=0)
        wave = wave / wave.std()
        drawn, noise = rng.standard_normal(self.length), np.zeros(self.length)
        for n in range(1, self.length):
            noise[n] = self.memory * noise[n - 1] + (1 - self.memory**2) ** 0.5 * drawn[n]
        level, size = rng.normal(0, 5), np.exp(rng.normal(0, 1))
        made_up = level + size * (wave + rng.normal(0, 1) * at / self.length + self.noise * noise)
        return [round(float(x), 5) for x in made_up]


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows in `out`.rows."""
    kind = from_dict(Waves, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            yield {"series": kind.series(split, number)}

    return made(out, "toy series", LICENCE, rows)
