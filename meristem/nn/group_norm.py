"""Group normalisation of pictures, and silu after it, in one native pass over channels that lie last in memory.

Wu & He 2018, https://arxiv.org/abs/1803.08494. torch's kernel and its silu took 22 % of a U-Net's forward pass in bf16
on a CPU, one native pass over them takes 10 to 13 % (docs/log.md); forward and backward, sums in fp32. Where the kernel
is not there (no compiler, a GPU) or channels are no multiple of 16, torch computes the same.

    y = group_norm(x, weight, bias, groups=32, eps=1e-5, silu=True)            # [B, C, H, W], the type of x
"""
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meristem.nn import kernel

LANES = 16                              # channels that the kernel takes at a time


def group_norm(x: Float[Tensor, "B C *N"], weight: Float[Tensor, "C"], bias: Float[Tensor, "C"], groups: int,
               eps: float, silu: bool = False) -> Float[Tensor, "B C *N"]:
    """Each picture's groups of channels with mean 0 and deviation 1, scaled and shifted a channel; silu of it."""
    if x.ndim == 4 and x.device.type == "cpu" and x.dtype in kernel.KINDS and x.shape[1] % LANES == 0 and native():
        return _norm(x, weight.float(), bias.float(), groups, eps, silu)[0]
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    return F.silu(y) if silu else y


@torch.compiler.assume_constant_result
def native() -> bool:
    """Whether the kernel is there."""
    return kernel.library() is not None


def last(x: Tensor) -> Tensor:
    """With channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("meristem::group_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float,
          silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    lib = kernel.library()
    assert lib is not None
    x, weight, bias = last(x), weight.contiguous(), bias.contiguous()
    y, (rows, c, h, w) = torch.empty_like(x), x.shape
    mean, scale = torch.empty(rows, groups), torch.empty(rows, groups)
    lib.meristem_norm(*(t.data_ptr() for t in (x, weight, bias, y, mean, scale)), rows, h * w, c, groups, eps, silu,
                      x.dtype == torch.bfloat16, torch.get_num_threads())
    return y, mean, scale


@torch.library.custom_op("meristem::group_norm_back", mutates_args=())
def _back(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor,
          silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    lib = kernel.library()
    assert lib is not None
    grad, x, weight, bias = last(grad), last(x), weight.contiguous(), bias.contiguous()
    dx, (rows, c, h, w) = torch.empty_like(x), x.shape
    dw, db = torch.empty(rows, c), torch.empty(rows, c)
    lib.meristem_norm_back(*(t.data_ptr() for t in (grad, x, weight, bias, mean, scale, dx, dw, db)), rows, h * w, c,
                           mean.shape[1], silu, x.dtype == torch.bfloat16, torch.get_num_threads())
    return dx, dw.sum(0), db.sum(0)


@_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[0], groups, dtype=torch.float32)
    return last(torch.empty_like(x)), mean, torch.empty_like(mean)


@_back.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor,
      silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    return last(torch.empty_like(x)), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, _, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return (*_back(grad, *ctx.saved_tensors, ctx.silu), None, None, None)


_norm.register_autograd(_backward, setup_context=_keep)
