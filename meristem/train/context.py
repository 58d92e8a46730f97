"""Context parallelism: a row's places divided over processes; every query sees the keys and values of all of them.

Keys and values are gathered in each attention (Llama 3, Grattafiori et al. 2024, section 3.3.2,
https://arxiv.org/abs/2407.21783, prefers this over a ring: with few key heads they are small beside the scores), and
their gradients are summed on the way back. Process c of n has the c-th of n equal runs of places, so the last ones do
more of a causal triangle; a long row fits all the same. For decoders whose only memory is attention.
"""
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.nn.attention import Attention, CrossAttention, Reach, attend
from meristem.objectives.base import Objective
from meristem.objectives.next_token import NextToken
from meristem.train.mesh import World

PLACED = ("weight", "segments", "positions", "types")          # fields of a batch with a column for each input


def part(batch: Batch, world: World) -> Batch:
    """This process's places of a batch of rows [B, T+1]; `positions` say where they stand."""
    if world.mesh.cp == 1:
        return batch
    rows, length = batch["weight"].shape
    each = length // world.mesh.cp
    start = world.at["cp"] * each
    here = {key: batch[key][:, start: start + each] for key in PLACED if key in batch}
    where = here.get("positions", torch.arange(start, start + each).expand(rows, -1))
    return {**batch, **here, "tokens": batch["tokens"][:, start: start + each + 1], "positions": where}


def spread(objective: Objective, world: World, length: int) -> None:
    """Let every attention of the model see the other processes' keys.

    RequestError for a model or an objective whose places depend on each other otherwise, or an uneven `length`.
    """
    if length % world.mesh.cp:
        raise RequestError(f"train.context={length} does not divide into cp={world.mesh.cp} equal parts")
    layers = [m for m in objective.model.modules() if isinstance(m, Attention)]
    other = [m for m in objective.model.modules() if isinstance(m, CrossAttention | nn.RNNBase | nn.RNNCellBase)]
    if not layers or other or not all(layer.reach.causal for layer in layers) or not isinstance(objective, NextToken):
        raise RequestError("cp divides the rows of decoders that predict the next token; use dp for this run")
    for layer in layers:
        layer.around = Around(world.group("cp"))


class Around:
    """What an attention calls instead of `attend` when other processes have the other places."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.count, self.place = group, dist.get_world_size(group), dist.get_rank(group)

    def __call__(self, q: Float[Tensor, "B T H K"], k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G K"],
                 reach: Reach, scale: float, segments: Int[Tensor, "B T"] | None) -> Float[Tensor, "B T H K"]:
        """Attention of these places' queries over the keys of all places."""
        rows, length = q.shape[:2]
        keys, values = (_Gather.apply(x, self.group) for x in (k, v))
        at = torch.arange(length * self.count, device=q.device)
        mine = slice(self.place * length, (self.place + 1) * length)
        seen = reach.seen(at[mine], at).expand(rows, -1, -1)
        if segments is not None:
            seen = seen & (segments[:, :, None] == _gathered(segments, self.group)[:, None, :])
        return attend(q, keys, values, Reach(causal=False), scale=scale, seen=seen)


def _gathered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, T, ...] of each process -> [B, T * n, ...]."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(dist.get_world_size(ctx.group), 1)[dist.get_rank(ctx.group)], None
