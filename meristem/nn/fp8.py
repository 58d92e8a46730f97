"""Products in 8-bit floating point, emulated: numbers are rounded as the hardware rounds, arithmetic is ours.

Micikevicius et al. 2022, "FP8 formats for deep learning", https://arxiv.org/abs/2209.05433: weights and activations in
E4M3, gradients in E5M2, each tensor divided by a scale that puts its largest number at the format's largest.

    emulate(model)                      # every Linear but the head; train it, and see what eight bits cost

| format | largest | smallest normal | smallest | numbers in a binade |
| --- | --- | --- | --- | --- |
| E4M3 | 448 | 2^-6 | 2^-9 | 8 |
| E5M2 | 57,344 | 2^-14 | 2^-16 | 4 |

torch's cast (2.13) turns what is too large for E5M2 into infinity; `rounded` saturates in both, as hardware can. What
lies below half of the smallest number becomes 0: with a scale a tensor keeps numbers down to 2^-19 (E4M3) or 2^-33
(E5M2) of its largest, and `lost` counts those that it does not keep.
"""
import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Linear

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def scale_of(x: Float[Tensor, "*S"], format: torch.dtype) -> Float[Tensor, ""]:
    """The largest magnitude of x over the format's largest, fp32; 1 where x is all zeros."""
    largest = x.abs().amax().float()
    return torch.where(largest > 0, largest / torch.finfo(format).max, torch.ones_like(largest))


def rounded(x: Float[Tensor, "*S"], format: torch.dtype, scale: Tensor | None = None) -> Float[Tensor, "*S"]:
    """x as the format holds it when divided by `scale` (None: `scale_of`), in x's own type; saturates, NaN stays."""
    scale = scale_of(x, format) if scale is None else scale
    limit = torch.finfo(format).max
    return ((x.float() / scale).clamp(-limit, limit).to(format).float() * scale).to(x.dtype)


def lost(x: Float[Tensor, "*S"], format: torch.dtype, scale: Tensor | None = None) -> float:
    """Share of the numbers other than 0 that the format rounds to 0."""
    full = x != 0
    return float((full & (rounded(x, format, scale) == 0)).sum() / full.sum().clamp(min=1))


class Product(torch.autograd.Function):
    """x W^T with both in E4M3; backward, the gradient in E5M2 against the same rounded x and W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """[..., I] and [O, I] -> [..., O]."""
        x, weight = rounded(x, E4M3), rounded(weight, E4M3).to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """[..., O] -> [..., I] and [O, I]."""
        x, weight = ctx.saved_tensors
        grad = rounded(grads[0], E5M2)
        return grad @ weight, grad.flatten(0, -2).mT @ x.flatten(0, -2)


def emulate(module: nn.Module) -> nn.Module:
    """Let every Linear of `module` but its head multiply in emulated 8 bits from now on; returns `module`.

    Outputs, biases, norms, attention and the optimizer stay as they are. Slower than no emulation: it shows the loss,
    not the speed.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, Linear) and not name.endswith("head"):
            layer.forward = functools.partial(_forward, layer)             # type: ignore[method-assign]
    return module


def _forward(layer: Linear, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
    y = Product.apply(x, layer.weight)
    return y if layer.bias is None else y + layer.bias.to(x.dtype)
