"""Where an encoder of pictures looks: the attention of its class token in the last layer, laid over the pictures.

Caron et al. 2021, https://arxiv.org/abs/2104.14294, figure 1 (a head each; here their mean, or one of them). A run with
`train.sample_every` leaves such pictures in its folder, and the report shows them. In Python:

    shown = laid_over(pixels, module.looks(between(pixels)).mean(1))           # uint8 [B, 3, H, W]
"""
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

WARM = (255.0, 90.0, 20.0)              # the colour of places that are looked at
DIM = 0.35                              # what stays of the others


@runtime_checkable
class Looks(Protocol):
    """A model that can say where it looks."""

    def looks(self, images: Tensor) -> Tensor:
        """[B, C, H, W] from -1 to 1 -> [B, heads, rows, columns], shares of attention that sum to at most 1."""
        ...


def laid_over(pixels: UInt8[Tensor, "B C H W"], shares: Float[Tensor, "B G G"]) -> UInt8[Tensor, "B 3 H W"]:
    """The pictures, dim where nobody looks and warm where one looks most; each picture's largest share counts as 1."""
    top = shares.amax((1, 2), keepdim=True).clamp(min=1e-12)
    heat = F.interpolate((shares / top)[:, None].float(), size=pixels.shape[2:], mode="bilinear", align_corners=False)
    plain = pixels.float().expand(-1, 3, -1, -1)
    warm = 0.5 * plain + 0.5 * torch.tensor(WARM)[:, None, None]
    return ((1 - heat) * DIM * plain + heat * warm).round().clamp(0, 255).to(torch.uint8)
