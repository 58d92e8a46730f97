"""What a loss over a whole batch needs when other processes have the other rows: gather and sum, differentiable.

    everyone = gather(mine)                # [b, ...] of each process -> [b * count(), ...], rows in the batch's order
    total = summed(x)                      # the sum over processes that have other rows or places

Contrastive losses compare every row with every other (Radford et al. 2021, https://arxiv.org/abs/2103.00020 section
2.3); the balance of experts is a mean over all tokens. In one process both return what they are given. Each process
computes the loss of its own rows; gradients that other processes' losses send to these rows arrive by themselves.
`train.mesh.World` says who shares the rows; nothing else sets it.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

_groups: dict[str, dist.ProcessGroup] = {}                     # "rows": other rows; "data": other rows or places


def share_rows(groups: dict[str, dist.ProcessGroup]) -> None:
    """Tell this module with whom rows ("rows") and rows or places ("data") are shared; {} is one process."""
    _groups.clear()
    _groups.update(groups)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, every process has a whole batch of its own: a rest that cannot be shared."""
    kept = dict(_groups)
    _groups.clear()
    try:
        yield
    finally:
        _groups.update(kept)


def count() -> int:
    """How many processes share the rows of a batch."""
    return dist.get_world_size(_groups["rows"]) if _groups else 1


def rank() -> int:
    """Which of them this is: it has rows rank(), rank() + count(), ... of the batch."""
    return dist.get_rank(_groups["rows"]) if _groups else 0


def gather(x: Shaped[Tensor, "b *R"]) -> Shaped[Tensor, "B *R"]:
    """The rows of all processes, in the order of the batch; every process must have as many. Its gradient is the sum
    of all processes' gradients for the rows given here."""
    return _Gather.apply(x, _groups["rows"]) if count() > 1 else x


def summed(x: Float[Tensor, "*R"]) -> Float[Tensor, "*R"]:
    """The sum over all processes that have other rows or places; its gradient is the sum of theirs."""
    return _Sum.apply(x, _groups["data"]) if _groups else x


def mean(x: Float[Tensor, "*R"]) -> Float[Tensor, "*R"]:
    """The mean over all processes that have other rows or places, differentiable like `summed`."""
    return summed(x) / dist.get_world_size(_groups["data"]) if _groups else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.stack(parts, 1).flatten(0, 1)             # row i of process r is row i * count + r of the batch

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.unflatten(0, (-1, dist.get_world_size(ctx.group)))[:, dist.get_rank(ctx.group)], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
