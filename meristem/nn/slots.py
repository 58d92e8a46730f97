"""Vectors among words: places of a row of tokens that hold what another network made of a picture or a sound.

    language.embed = table = Slots.on(language.embed)          # with its weight
    with table.showing(vectors):                               # [B, M, D]
        language.features(numbered(tokens, token, count))      # the k-th `token` of a row is its k-th vector

Any decoder that looks its ids up in an `Embedding` can so be given vectors, without a line of its own: ids below zero
are vectors, -1 the first of the row. `Pending` carries them through a cache, for a prompt that is read in pieces.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meristem.nn.linear import Embedding


class Pending:
    """An entry of a cache: the vectors of each row, [B, M, D], and how many of them were used."""

    def __init__(self, vectors: Float[Tensor, "B M D"]):
        self.vectors, self.used = vectors, torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows."""
        self.vectors, self.used = self.vectors[rows], self.used[rows]

    def join(self, others: Sequence["Pending"]) -> None:
        """Append the rows of others."""
        self.vectors = torch.cat([self.vectors, *(one.vectors for one in others)])
        self.used = torch.cat([self.used, *(one.used for one in others)])


class Slots(Embedding):
    """A table of vectors in which the ids -1, -2, ... are those that are shown."""

    vectors: Tensor | None = None

    @classmethod
    def on(cls, table: Embedding) -> "Slots":
        """One that shares the weight of `table`."""
        with torch.device("meta"):
            made = cls(table.num_embeddings, table.embedding_dim)
        made.weight = table.weight
        return made

    @contextmanager
    def showing(self, vectors: Float[Tensor, "B M D"] | None) -> Iterator[None]:
        """Within, ids below zero are these vectors."""
        self.vectors = vectors
        try:
            yield
        finally:
            self.vectors = None

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """ids -> vectors of type `compute`."""
        if self.vectors is None:
            return super().forward(ids)
        x = super().forward(ids.clamp(min=0))
        at = (-1 - ids).clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
        return torch.where(ids[..., None] < 0, self.vectors.to(x.dtype).gather(1, at), x)


def numbered(tokens: Int[Tensor, "B T"], token: int, count: int,
             pending: Pending | None = None) -> Int[Tensor, "B T"]:
    """The tokens, with -1, -2, ... for the first `count` times that `token` stands in a row (and before, `pending`)."""
    here = tokens == token
    number = here.cumsum(1)
    if pending is not None:
        number = number + pending.used[:, None]
        pending.used = number[:, -1]
    return torch.where(here & (number <= count), -number, tokens)
