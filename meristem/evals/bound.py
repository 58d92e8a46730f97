"""What tasks about a corpus share: being bound to it, and a seeded choice of what it holds.

    class Films(OnCorpus): ...                  # Films().on(corpus).corpus
    drawn(documents, 400, seed, "films")        # at most 400 of them, in their own order
"""
import copy
from collections.abc import Sequence
from typing import Self, TypeVar

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Item, Reference

T = TypeVar("T")


class OnCorpus:
    """Base class of tasks that look into a corpus while they ask: `on` gives it; see `evals.base.Visual`."""

    def __init__(self, corpus: Corpus | None = None) -> None:
        self._corpus = corpus

    @property
    def corpus(self) -> Corpus:
        """The corpus that `on` gave."""
        assert self._corpus is not None, "call on(corpus) first"
        return self._corpus

    def on(self, corpus: Corpus) -> Self:
        """The same task with this corpus."""
        made = copy.copy(self)
        made._corpus = corpus
        return made

    def seen(self, items: Sequence[Item]) -> list[bool]:
        """Equal rows stand in one split only, and what is generated stands in none."""
        return [False] * len(items)

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The references are right by definition."""
        return {}


def drawn(found: Sequence[T], limit: int, seed: int, *names: str) -> list[T]:
    """At most `limit` of `found`, chosen by (seed, names), in the order of `found`."""
    order = np.random.default_rng(seed_of(seed, *names)).permutation(len(found))[:limit]
    return [found[i] for i in sorted(order)]
