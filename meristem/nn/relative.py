"""Relative position bias: a learned number for each head and each bucket of distances, added to attention's scores.

Shaw et al. 2018, https://arxiv.org/abs/1803.02155, in the form of T5 (Raffel et al. 2020,
https://arxiv.org/abs/1910.10683 section 2.1): half of the buckets are single distances, the other half grow by a
constant factor up to `furthest`, and everything beyond shares the last one.

    bias = RelativeBias(heads=8, causal=False)
    attention(x, bias=bias(torch.arange(T), torch.arange(T)))
"""
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.nn.linear import Embedding


def bucket(distance: Int[Tensor, "*N"], buckets: int = 32, furthest: int = 128,
           causal: bool = False) -> Int[Tensor, "*N"]:
    """The bucket of each distance, key position minus query position; both sides of 0 have their own unless causal.

    A causal query never sees later keys: their distances fall into bucket 0, and what the bias says of them is masked.
    """
    offset = torch.zeros_like(distance)
    if causal:
        away = (-distance).clamp(min=0)
    else:
        buckets //= 2
        offset, away = (distance > 0).long() * buckets, distance.abs()
    single = buckets // 2
    ratio = (away.clamp(min=1).float() / single).log() / math.log(furthest / single)
    coarse = (single + (ratio * (buckets - single)).long()).clamp(max=buckets - 1)
    return offset + torch.where(away < single, away, coarse)


class RelativeBias(nn.Module):
    """A table [buckets, heads]; its numbers are added to fp32 scores, so they stay fp32 whatever else computes in."""

    def __init__(self, heads: int, *, buckets: int = 32, furthest: int = 128, causal: bool = False):
        super().__init__()
        self.table = Embedding(buckets, heads)
        self.furthest, self.causal = furthest, causal

    def forward(self, query: Int[Tensor, "*B T"], key: Int[Tensor, "*B S"]) -> Float[Tensor, "*B H T S"]:
        """What each head adds to the score of every pair of positions."""
        distance = key[..., None, :] - query[..., :, None]
        which = bucket(distance, self.table.num_embeddings, self.furthest, self.causal)
        return self.table.weight[which].movedim(-1, -3)
