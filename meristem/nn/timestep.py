"""How a diffusion model is told the time: sines of it, then two linear layers.

Ho et al. 2020, https://arxiv.org/abs/2006.11239 (appendix B), after Vaswani et al. 2017 (section 3.5). Published models
differ in the order of sine and cosine (`flip`: cosine first) and in whether the last frequency is exactly 1/10,000
(`shift` 1) or the next one would be (0).
"""
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Linear

PERIOD = 10_000.0                       # the longest wave, over 2 pi


def sines(time: Float[Tensor, "B"], dim: int, flip: bool = True, shift: int = 0) -> Float[Tensor, "B D"]:
    """[B] -> [B, dim], fp32; `time` may be fractional."""
    half = dim // 2
    frequency = torch.exp(-math.log(PERIOD) * torch.arange(half, dtype=torch.float32, device=time.device)
                          / (half - shift))
    angle = time.float()[:, None] * frequency
    parts = (angle.cos(), angle.sin()) if flip else (angle.sin(), angle.cos())
    return F.pad(torch.cat(parts, 1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """linear(silu(linear(sines)))."""

    def __init__(self, sines_dim: int, dim: int, flip: bool = True, shift: int = 0):
        super().__init__()
        self.first, self.second = Linear(sines_dim, dim), Linear(dim, dim)
        self.flip, self.shift = flip, shift

    def forward(self, time: Float[Tensor, "B"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
        """[B] -> [B, D] of type `dtype`."""
        x = sines(time, self.first.in_features, self.flip, self.shift).to(dtype)
        return self.second(F.silu(self.first(x)))
