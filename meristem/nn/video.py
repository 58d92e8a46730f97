"""Films: convolutions that look back in time only, patches of space and time, positions on three axes.

Yu et al. 2023, https://arxiv.org/abs/2310.05737 (MAGVIT-2, section 3.2: causal 3-D convolutions, so that the first
frame is a picture by itself); Brooks et al. 2024 (Sora: patches of space and time as tokens). A film is
[B, F, C, H, W].

    x = CausalConv(3, 16)(films)                               # [B, F, 3, H, W] -> [B, F, 16, H, W]
    tokens = FilmPatches(4, 128, 2)(latents)                   # [B, F, 4, H, W] -> [B, F * H/2 * W/2, 128]
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Entrance
from meristem.nn.patch import Patches


class CausalConv(nn.Conv3d, Entrance):
    """A convolution over three frames, the last of them its own, and 3 x 3 places; the first frame stands before it.

    `stride` divides time and `across` both sides; 1 + n frames give 1 + n / stride.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, across: int = 1):
        super().__init__(inputs, outputs, size, stride=(stride, across, across))
        self.edge = size // 2

    def forward(self, x: Float[Tensor, "B F I H W"]) -> Float[Tensor, "B f O h w"]:
        """[B, F, in, H, W] -> [B, f, out, h, w] in the type of x, or in `compute`."""
        x = (x if self.compute is None else x.to(self.compute)).transpose(1, 2)
        if self.edge:
            x = F.pad(torch.cat([x[:, :, :1].expand(-1, -1, 2 * self.edge, -1, -1), x], 2), (self.edge,) * 4)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv3d(x, self.weight.to(x.dtype), bias, self.stride).transpose(1, 2)


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame by itself: a later frame changes none before it."""

    def forward(self, x: Float[Tensor, "B F C H W"]) -> Float[Tensor, "B F C H W"]:
        """[B, F, C, H, W] -> the same."""
        y = F.group_norm(x.flatten(0, 1), self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.unflatten(0, x.shape[:2])


class FilmPatches(Patches):
    """Squares of every frame as tokens, frame by frame."""

    def forward(self, images: Float[Tensor, "B F C H W"]) -> Float[Tensor, "B N D"]:
        """[B, F, C, H, W] -> [B, F * h * w, D]."""
        return super().forward(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)


def places(frames: int, rows: int, columns: int, dim: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Sines of the frame (half of the numbers), of the column and of the row (a quarter each) at every token."""
    def sines(count: int, width: int) -> Tensor:
        frequency = 1.0 / 10_000.0 ** (torch.arange(width // 2, dtype=torch.float64, device=device) / (width // 2))
        angle = torch.arange(count, dtype=torch.float64, device=device)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], 1)
    time, across, down = sines(frames, dim // 2), sines(columns, dim // 4), sines(rows, dim // 4)
    shape = (frames, rows, columns, -1)
    parts = (time[:, None, None], across[None, None], down[None, :, None])
    return torch.cat([part.expand(shape) for part in parts], -1).flatten(0, 2).float()
