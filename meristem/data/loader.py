"""Batches as a pure function of (shards, seed, step): nothing is saved, and any step can be asked for on any rank.

`Packed(split, context=256, batch=16, seed=0)(step)` gives the micro-batches of one update. An epoch shows every window
of context + 1 tokens once, in an order that `core.random.permute` names; windows share one token, so that every token
but the first is a target once. `sweep` goes through a split in order once, for validation. `separate` marks the
documents of each row, so that attention does not cross from one to the next (data.packing=separate).
"""
import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64

from meristem.core.errors import RequestError
from meristem.core.random import permute, seed_of
from meristem.core.types import Batch
from meristem.data.shards import Split


class Order:
    """Which of `n` rows make up each step: epochs of all rows, each shuffled by its own key, split among ranks.

    Rank r of w takes rows r, r + w, ... of the global batch, so the union over ranks is the same for every w.
    """

    def __init__(self, n: int, batch: int, seed: int, micro: int = 0, rank: int = 0, world: int = 1) -> None:
        if batch < world:
            raise RequestError(f"a batch of {batch} rows cannot be shared by {world} ranks; raise train.batch")
        self.n, self.batch, self.seed, self.rank, self.world = n, batch, seed, rank, world
        self.micro = micro or batch

    def __call__(self, step: int) -> list[Int64[np.ndarray, "rows"]]:
        """Row numbers of each micro-batch of `step` (from 0) on this rank."""
        place = np.arange(step * self.batch + self.rank, (step + 1) * self.batch, self.world)
        rows = np.empty_like(place)
        for epoch in range(int(place[0]) // self.n, int(place[-1]) // self.n + 1):
            here = place // self.n == epoch
            rows[here] = permute(place[here] % self.n, self.n, seed_of(self.seed, "order", epoch))
        return [rows[i: i + self.micro] for i in range(0, len(rows), self.micro)]


class Packed:
    """A source for `Trainer`: windows of a split, whose documents run on with the end token between them."""

    def __init__(self, split: Split, context: int, batch: int, seed: int, *,
                 micro: int = 0, rank: int = 0, world: int = 1) -> None:
        self.split, self.context = split, context
        self.windows = windows(split, context)
        if not self.windows:
            raise RequestError(f"the {split.name} split has {len(split.tokens)} tokens: too few for a context of "
                               f"{context}; "
                               f"set train.context to at most {max(1, len(split.tokens) - 1)} or curate more text")
        self.order = Order(self.windows, batch, seed, micro, rank, world)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update: tokens int64 [B, context + 1], weight float32 [B, context]."""
        return [batch_of(self.rows(rows)) for rows in self.order(step)]

    def rows(self, which: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "B T+1"]:
        """Windows of context + 1 tokens by number, 0 .. windows - 1."""
        return self.split.tokens[which[:, None] * self.context + np.arange(self.context + 1)].astype(np.int64)


def windows(split: Split, context: int) -> int:
    """How many whole windows of context + 1 tokens a split has."""
    return max(0, (len(split.tokens) - 1) // context)


def batch_of(tokens: Int64[np.ndarray, "B T+1"], weight: Float32[np.ndarray, "B T"] | None = None) -> Batch:
    """A `Batch`; without a weight every target counts 1."""
    b, t = tokens.shape
    counts = torch.ones(b, t - 1) if weight is None else torch.from_numpy(weight)
    return {"tokens": torch.from_numpy(tokens), "weight": counts}


def separate(batch: Batch, end: int) -> Batch:
    """The batch with segments and positions [B, T]: each `end` among the inputs opens the next document of its row.

    So every target is predicted from its own document alone, the first token of a document from the end token before
    it, as a model sees it that is prompted with the end token.
    """
    opens = batch["tokens"][:, :-1] == end
    places = torch.arange(opens.shape[1], device=opens.device).expand_as(opens)
    starts = places.masked_fill(~opens, 0).cummax(1).values
    return {**batch, "segments": opens.long().cumsum(1), "positions": places - starts}


def sweep(split: Split, context: int, batch: int, limit: int = 0) -> Iterator[Batch]:
    """The split once, in order, each token but the first a target once; the rest of the last batch has weight 0.

    All batches have the same shape. `limit` > 0 stops after about that many targets, taken evenly from the whole split.
    """
    targets = len(split.tokens) - 1
    count = math.ceil(targets / context)
    which = np.arange(count)
    if 0 < limit < targets:
        which = np.unique(np.linspace(0, count - 1, max(1, limit // context)).round().astype(np.int64))
    for start in range(0, len(which), batch):
        rows = which[start: start + batch]
        places = np.full((batch, context + 1), len(split.tokens), dtype=np.int64)
        places[: len(rows)] = rows[:, None] * context + np.arange(context + 1)
        inside = places <= targets
        tokens = np.where(inside, split.tokens[np.minimum(places, targets)], split.end).astype(np.int64)
        yield batch_of(tokens, inside[:, 1:].astype(np.float32))
