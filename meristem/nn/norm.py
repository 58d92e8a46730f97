"""Normalisation: LayerNorm (Ba et al. 2016, https://arxiv.org/abs/1607.06450) and RMSNorm (Zhang & Sennrich 2019,
https://arxiv.org/abs/1910.07467), both with the arithmetic inside in fp32 and the result in the type of x.
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension."""

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True):
        super().__init__(dim, eps, bias=bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean of squares in fp32 (a bf16 one loses 5 of 8 bits), the result in the type of x."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        return self.weight.to(x.dtype) * unit(x, self.eps)


def unit(x: Float[Tensor, "*B D"], eps: float) -> Float[Tensor, "*B D"]:
    """x / rms(x), without a weight: the vector of length sqrt(D) in its direction (Llama 4's queries and keys)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
