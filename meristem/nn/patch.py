"""Images to sequences: patches as vectors, a class token and registers before them, learned positions on a grid.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929 (section 3.1); registers: Darcet et al. 2023,
https://arxiv.org/abs/2309.16588. A learned position table is a grid of vectors: for an image of another size it is
resampled (bicubic), as Touvron et al. 2021 do when they fine-tune at another resolution.

    x = Patches(3, 384, 16)(images)                            # [B, 3, 224, 224] -> [B, 196, 384]
"""
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.image import levelled
from meristem.nn.linear import Entrance


class Patches(nn.Module, Entrance):
    """A linear map of each `size` x `size` square; the weight [D, C, size, size] is a convolution's, the product ours.

    One matrix product over flattened squares: a strided convolution on a CPU takes 2 to 3 times as long in bf16.
    """

    def __init__(self, channels: int, dim: int, size: int, bias: bool = True):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(dim, channels, size, size))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """Patches row by row; pixels beyond the last whole patch are left out."""
        images = levelled(images, self.levels)
        x = images if self.compute is None else images.to(self.compute)
        rows, columns = (n // self.size for n in x.shape[2:])
        x = x[:, :, :rows * self.size, :columns * self.size]
        x = x.unflatten(3, (columns, self.size)).unflatten(2, (rows, self.size))       # [B, C, h, p, w, p]
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)                       # [B, N, C*p*p]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.flatten(1).to(x.dtype), bias)


def resample(table: Float[Tensor, "N D"], rows: int, columns: int, antialias: bool = False) -> Float[Tensor, "M D"]:
    """A square grid of N positions as one of rows x columns, bicubic in fp32; itself when it fits."""
    side = math.isqrt(len(table))
    if (rows, columns) == (side, side):
        return table
    grid = table.float().T.unflatten(1, (side, side))[None]
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=antialias)
    return grid[0].flatten(1).T.to(table.dtype)
