"""Layers over time: convolutions of samples or frames [B, C, N] whose arithmetic follows the data, as in nn/conv.py.

    x = Stem(80, 384, 3, padding=1)(frames)                    # where sound enters, in its `compute` type
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Entrance


class Conv(nn.Conv1d):
    """A convolution over time in the type of its input."""

    def forward(self, x: Float[Tensor, "B I N"]) -> Float[Tensor, "B O M"]:
        """[B, in, N] -> [B, out, M]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias)


class Stem(Conv, Entrance):
    """The first convolution of a network."""

    def forward(self, x: Float[Tensor, "B I N"]) -> Float[Tensor, "B O M"]:
        """[B, in, N] -> [B, out, M] of type `compute`."""
        return super().forward(x.to(self.compute or x.dtype))


class Grow(nn.ConvTranspose1d):
    """A transposed convolution that makes `stride` times as many samples, in the type of its input."""

    def forward(self, x: Float[Tensor, "B I N"]) -> Float[Tensor, "B O M"]:          # type: ignore[override]
        """[B, in, N] -> [B, out, stride * N]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        whole = F.conv_transpose1d(x, self.weight.to(x.dtype), bias, stride=self.stride)
        return whole[..., :x.shape[2] * self.stride[0]]        # what the last inputs add behind would look ahead


class Positional(nn.Module):
    """x + gelu(convolution of groups over time): how wav2vec 2.0 tells places (Mohamed et al. 2019, arXiv 1904.11660).

    The kernel is kept as a length a tap and a direction (weight normalisation over its last dimension), as published.
    """

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        self.length = nn.Parameter(torch.ones(1, 1, kernel))
        self.direction = nn.Parameter(torch.randn(dim, dim // groups, kernel) * 2 / (kernel * dim) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.groups, self.kernel = groups, kernel
        with torch.no_grad():
            self.length.copy_(self.direction.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """[B, T, D] -> what is added to it."""
        weight = self.direction * (self.length / self.direction.norm(dim=(0, 1), keepdim=True))
        y = F.conv1d(x.mT, weight.to(x.dtype), self.bias.to(x.dtype), padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., :x.shape[1]]).mT
