"""Batches of windows of series of numbers, named by `run.data.examples=series`.

Rows are {"series": [numbers at equal times, null: unknown]}. A window is `context` numbers to read and `horizon` to
forecast; training takes every place of every series once an epoch, in an order that is a function of (seed, step), and
validation windows that do not overlap in what is forecast. A series that is shorter than a window is read from its
beginning, unknown numbers before it.

    source = Windows.of(corpus, "train", context=96, horizon=24, order=(32, seed, 0))
    source(0)[0]["series"]                                     # float32 [32, 120]
"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.loader import Order

ENTRY = "series"


@dataclass(frozen=True)
class Windows:
    """A source for `Trainer`: windows of the series of one split, shuffled anew each epoch."""

    series: list[np.ndarray]            # float32 [N], `context` unknown numbers before each
    starts: np.ndarray                  # int64 [M, 2]: series and place of every window
    apart: np.ndarray                   # those whose forecasts do not overlap
    context: int
    horizon: int
    order: Order

    @classmethod
    def of(cls, corpus: Corpus, split: str, context: int, horizon: int, order: tuple[int, int, int]) -> "Windows":
        """All windows of a split with something to read; `order` is (batch, seed, micro)."""
        given = [np.array([np.nan if x is None else x for x in d.fields["series"]], dtype=np.float32)
                 for d in corpus.documents(split) if "series" in d.fields]
        if not given:
            raise RequestError(f'the {split} split of {corpus.folder} has no series; give rows with "series"')
        series = [np.concatenate([np.full(context, np.nan, np.float32), one]) for one in given]
        places = [[(n, at) for at in range(min(context, max(1, len(one) - context - horizon)),
                                           len(one) - context - horizon + 1)] for n, one in enumerate(series)]
        starts = np.array([pair for some in places for pair in some], dtype=np.int64).reshape(-1, 2)
        if not len(starts):
            raise RequestError(f"no series of the {split} split of {corpus.folder} has more than {horizon} numbers; "
                               "lower model.horizon")
        apart = np.array([pair for some in places for pair in some[::-1][::horizon]], dtype=np.int64)
        batch, seed, micro = order
        return cls(series, starts, apart, context, horizon, Order(len(starts), batch, seed, micro))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(self.starts[rows]) for rows in self.order(step)]

    def batch(self, starts: np.ndarray) -> Batch:
        """Windows by series and place: series [B, context + horizon], weight [B, horizon] 1 where known."""
        width = self.context + self.horizon
        rows = torch.from_numpy(np.stack([self.series[n][at:at + width] for n, at in starts.tolist()]))
        return {"series": rows, "weight": rows[:, self.context:].isfinite().float()}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` windows that do not overlap, `rows` at a time."""
        count = min(limit, len(self.apart))
        return (self.batch(self.apart[start:min(start + rows, count)]) for start in range(0, count, rows))
