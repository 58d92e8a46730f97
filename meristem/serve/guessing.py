"""Speculative decoding in a batch: who guesses how each text goes on (Leviathan et al. 2022, arXiv 2211.17192).

A guess is certain, and it is kept where it is the token that the model draws there anyway (same seed, same place), so
what is written is the same with and without; the chance that it is kept is the model's probability of it, as in
speculative sampling with certain guesses. `Draft` is a smaller model with pages of its own under the same tables, so
what was found in the cache is there for it, too; without one the text itself is looked up (`speculative.look_up`).
"""
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.generate.speculative import look_up
from meristem.nn.paged import Store, pageable
from meristem.serve.jobs import Row


class Guesser(Protocol):
    """Proposes tokens."""

    def read(self, tokens: Tensor, places: Tensor, table: Tensor) -> None:
        """The model reads these tokens [B, T] of prompts."""
        ...

    def guess(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """At most `counts` tokens after each row, which has pages for them."""
        ...


class Lookup:
    """Guesses that a text goes on as it did after the last earlier occurrence of its last few tokens."""

    def read(self, tokens: Tensor, places: Tensor, table: Tensor) -> None:
        """Nothing is kept."""

    def guess(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        return [look_up(row.tokens, count) if count else [] for row, count in zip(rows, counts, strict=True)]


class Draft:
    """The likeliest tokens of a smaller model of the same vocabulary."""

    def __init__(self, module: nn.Module, pages: int, vocab: int, native: bool):
        if not pageable(module) or vars(module.config).get("vocab") != vocab:
            raise RequestError(f"the draft must be a decoder of the same {vocab} tokens")
        self.module, self.store = module, Store.like(module, pages)
        self.store.native = native

    def read(self, tokens: Tensor, places: Tensor, table: Tensor) -> None:
        """See `Guesser`."""
        self.module.features(tokens, positions=places, cache=self.store.view(table))           # type: ignore[operator]

    def guess(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`. The last two tokens are read first: both are new when every guess was kept."""
        table = torch.zeros(len(rows), max(len(row.pages) for row in rows), dtype=torch.long)
        for i, row in enumerate(rows):
            table[i, :len(row.pages)] = torch.tensor(row.pages)
        lengths = np.array([len(row.tokens) for row in rows])
        places = torch.from_numpy(np.maximum(lengths[:, None] - [2, 1], 0))
        tokens = torch.tensor([(row.tokens[-2:] * 2)[:2] for row in rows])
        out: list[list[int]] = [[] for _ in rows]
        last = torch.from_numpy(lengths - 1 + np.array(counts))
        for step in range(max(1, max(counts))):
            logits = self.module(tokens, positions=places, cache=self.store.view(table))[:, -1]
            new = logits.argmax(-1)
            for i, token in enumerate(new.tolist()):
                if step < counts[i]:
                    out[i].append(token)
            places = torch.minimum(places[:, -1:] + 1, last[:, None])          # who is done waits at his last place
            tokens = new[:, None]
        return out
