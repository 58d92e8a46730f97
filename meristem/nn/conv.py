"""Convolutions of image models: residual blocks, attention over pixels, halving and doubling.

Ho et al. 2020, https://arxiv.org/abs/2006.11239 (appendix B: the blocks of DDPM's U-Net); Rombach et al. 2021,
https://arxiv.org/abs/2112.10752 (the same blocks in an autoencoder). As with `Linear`, arithmetic follows the data: a
`Stem` is where pixels enter, in its `compute` type and with channels last in memory, which oneDNN wants on a CPU.

    x = Residual(64, 128, time=256)(x, embedded)               # [B, 64, H, W] -> [B, 128, H, W]
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.attention import Attention, Reach
from meristem.nn.group_norm import group_norm
from meristem.nn.image import levelled
from meristem.nn.linear import Entrance, Linear


class Conv(nn.Conv2d):
    """A convolution in the type of its input."""

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, out, h, w]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias)


class Stem(Conv, Entrance):
    """The first convolution of a network."""

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, out, h, w] of type `compute`, channels last."""
        x = levelled(x, self.levels)
        return super().forward(x.to(self.compute or x.dtype, memory_format=torch.channels_last))


class GroupNorm(nn.GroupNorm):
    """Group normalisation in the type of its input, and silu after it where that is asked for."""

    def forward(self, x: Float[Tensor, "B C *N"], silu: bool = False) -> Float[Tensor, "B C *N"]:
        """[B, C, ...] -> the same."""
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, silu)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x)) + time))); a 1 x 1 convolution carries x where the width changes.

    With `scaled` the time scales and shifts what the second norm gives; `resize` halves (the mean of four pixels) or
    doubles (every pixel four times) both ways before the convolutions (Dhariwal & Nichol 2021, https://arxiv.org/abs/
    2105.05233, section 3).
    """

    def __init__(self, inputs: int, outputs: int, *, time: int = 0, groups: int = 32, eps: float = 1e-5,
                 dropout: float = 0.0, scaled: bool = False, resize: Literal["", "half", "double"] = ""):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, inputs, eps), Conv(inputs, outputs, 3, padding=1)
        self.time = Linear(time, outputs * (1 + scaled)) if time else None
        self.scaled, self.resize = scaled, resize
        self.norm2, self.conv2 = GroupNorm(groups, outputs, eps), Conv(outputs, outputs, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.shortcut = Conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Float[Tensor, "B I H W"],
                time: Float[Tensor, "B E"] | None = None) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] and the embedded time [B, E] -> [B, out, H, W], half or twice as large where it resizes."""
        y = self.norm1(x, True)
        if self.resize:
            x, y = self.resized(x), self.resized(y)
        y = self.conv1(y)
        if self.time is None:
            y = self.norm2(y, True)
        else:
            assert time is not None
            told = self.time(F.silu(time))[:, :, None, None]
            if self.scaled:
                scale, shift = told.chunk(2, 1)
                y = F.silu(self.norm2(y) * (1 + scale) + shift)
            else:
                y = self.norm2(y + told, True)
        y = self.conv2(self.drop(y))
        return y + (x if self.shortcut is None else self.shortcut(x))

    def resized(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Half or twice the size."""
        return F.avg_pool2d(x, 2) if self.resize == "half" else F.interpolate(x, scale_factor=2.0, mode="nearest")


class PixelAttention(nn.Module):
    """x + attention(norm(x)) over all pixels, with `heads` heads."""

    def __init__(self, channels: int, heads: int = 1, *, groups: int = 32, eps: float = 1e-5):
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps)
        self.attn = Attention(channels, heads, bias=True, reach=Reach(causal=False))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> the same."""
        return x + pixels(self.attn(sequence(self.norm(x))), x)


class Down(nn.Module):
    """Half the size by a convolution of stride 2; without `pad` it reaches over the right and lower edge (SD's VAE)."""

    def __init__(self, channels: int, pad: bool = True):
        super().__init__()
        self.conv, self.pad = Conv(channels, channels, 3, stride=2, padding=int(pad)), pad

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return self.conv(x if self.pad else F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the size: every pixel four times, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """[B, C, H, W] -> [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Grow(nn.ConvTranspose2d):
    """Twice the size: every pixel becomes 2 x 2 of its own by a linear map (a transposed convolution of stride 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:      # type: ignore[override]
        """[B, in, H, W] -> [B, out, 2H, 2W]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv_transpose2d(x, self.weight.to(x.dtype), bias, stride=2)


@contextmanager
def cast(module: nn.Module) -> Iterator[None]:
    """Inside, kernels are kept in the type that `module` computes in, not cast again by every call: the same numbers.

    For asking alone: outside they are the fp32 weights that an optimizer knows.
    """
    compute = next((m.compute for m in module.modules() if isinstance(m, Stem)), None)
    kept = [(m, m.weight.data) for m in module.modules() if isinstance(m, Conv) and m.weight.dtype != compute]
    for conv, weight in kept if compute else ():
        conv.weight.data = weight.to(compute, memory_format=torch.channels_last)
    try:
        yield
    finally:
        for conv, weight in kept:
            conv.weight.data = weight


def sequence(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N C"]:
    """Pixels row by row as vectors."""
    return x.flatten(2).transpose(1, 2)


def pixels(x: Float[Tensor, "B N C"], like: Float[Tensor, "B _C H W"]) -> Float[Tensor, "B C H W"]:
    """Vectors as an image of the height and width of `like`."""
    return x.transpose(1, 2).unflatten(2, like.shape[2:])
