"""What a layer of an encoder-decoder keeps while it generates: T5 (models/t5.py) and Whisper (models/whisper.py).

    cache = [LayerCache(Cache(...), block.cross.keys(memory), seen) for block in decoder.blocks]
"""
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from meristem.nn.attention import Cache


class LayerCache:
    """What one decoder layer keeps while generating: its own keys and values, and those of the encoder's output."""

    def __init__(self, own: Cache, keys: tuple[Tensor, Tensor], seen: Bool[Tensor, "B 1 S"]):
        self.own, self.keys, self.seen = own, keys, seen

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows."""
        self.own.keep(rows)
        self.keys = self.keys[0][rows], self.keys[1][rows]
        self.seen = self.seen[rows]

    def join(self, others: Sequence["LayerCache"]) -> None:
        """Append the rows of other caches of the same length, whose sources were padded to one length."""
        self.own.join([other.own for other in others])
        k, v, seen = zip(*((*c.keys, c.seen) for c in (self, *others)), strict=True)
        self.keys, self.seen = (torch.cat(k), torch.cat(v)), torch.cat(seen)
