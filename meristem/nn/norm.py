"""Normalisation. LayerNorm is torch's own; RMSNorm follows Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467."""
import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean of squares in fp32 (a bf16 one loses 5 of 8 bits), the result in the type of x."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * wide.to(x.dtype)
