"""Views of pictures for self-supervised learning: crops, turned, stretched, recoloured and blurred, and hidden patches.

Multi-crop: Caron et al. 2020, https://arxiv.org/abs/2006.09882, section 3.2 (two large views, several small ones); the
colours of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A); blocks of hidden patches: Bao et al.
2021, https://arxiv.org/abs/2106.08254, algorithm 1. Everything is a pure function of its arguments, of which one is the
seed: the same seed gives the same views in every process and after every resume.

    rng = torch.Generator().manual_seed(seed)
    large = crops(images, Look(side=32, area=(0.4, 1.0)), 2, rng)              # [B, 2, C, 32, 32]
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)            # how bright red, green and blue are (ITU-R BT.601)


@dataclass(frozen=True)
class Look:
    """How views are drawn; shares are of the picture, chances of a view."""

    side: int                           # pixels of a view
    area: tuple[float, float] = (0.4, 1.0)         # least and largest share of the picture that is seen
    ratio: float = 4 / 3                # most width over height, and height over width
    flip: float = 0.0                   # chance of left and right exchanged: 0 where that changes what is shown
    turn: float = 0.0                   # most degrees, either way
    shear: float = 0.0                  # most, as a slope
    light: float = 0.0                  # brightness and contrast times 1 - light to 1 + light
    colour: float = 0.0                 # saturation the same way
    grey: float = 0.0                   # chance of no colour
    blur: float = 0.0                   # chance of a Gaussian blur of 0.1 to 1 pixels
    invert: float = 0.0                 # chance of dark and light exchanged (in place of solarisation)


def crops(images: Float[Tensor, "B C H W"], look: Look, count: int,
          rng: torch.Generator) -> Float[Tensor, "B V C S S"]:
    """`count` views of each picture; pictures and views lie between -1 and 1, beyond an edge is its last pixel."""
    batch, channels = images.shape[:2]
    n = batch * count

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=rng) if high > low else torch.full((n,), low)

    def chance(share: float) -> Tensor:
        return torch.rand(n, generator=rng) < share
    area, slope = draw(*look.area), draw(-math.log(look.ratio), math.log(look.ratio)).exp().sqrt()
    width, height = ((area.sqrt() * s).clamp(max=1.0) for s in (slope, 1 / slope))
    x, y = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    angle, shear = draw(-look.turn, look.turn) * math.pi / 180, draw(-look.shear, look.shear)
    mirror = 1 - 2 * chance(look.flip).float()
    cos, sin = angle.cos(), angle.sin()
    # what a view shows at (u, v): turned, sheared, then squeezed into its part of the picture
    across = torch.stack([width * mirror * cos, width * (shear * cos - sin), x], 1)
    down = torch.stack([height * mirror * sin, height * (shear * sin + cos), y], 1)
    shape = [n, channels, look.side, look.side]
    grid = F.affine_grid(torch.stack([across, down], 1), shape, align_corners=False)
    repeated = images.repeat_interleave(count, 0)
    views = F.grid_sample(repeated, grid, mode="bilinear", padding_mode="border", align_corners=False)
    views = _coloured(views, look, draw, chance)
    return views.unflatten(0, (batch, count))


def turned(images: Float[Tensor, "B C H W"], degrees: float) -> Float[Tensor, "B C H W"]:
    """Square pictures turned clockwise about their middle; beyond an edge is its last pixel."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0]]).expand(len(images), -1, -1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def hidden(count: int, rows: int, columns: int, share: tuple[float, float], chance: float,
           rng: torch.Generator) -> Bool[Tensor, "N P"]:
    """Which patches of `count` views of rows x columns are hidden: rectangles up to a share drawn between two.

    A view has hidden patches with probability `chance`, at least one then.
    """
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
    found = np.zeros((count, rows, columns), dtype=bool)
    for which in np.flatnonzero(numbers.random(count) < chance):
        wanted = max(1, round(rows * columns * numbers.uniform(*share)))
        mask = found[which]
        while (left := wanted - int(mask.sum())) > 0:
            height = int(numbers.integers(1, min(rows, left) + 1))
            width = int(numbers.integers(1, min(columns, max(1, left // height)) + 1))
            top, side = (int(numbers.integers(0, most + 1)) for most in (rows - height, columns - width))
            mask[top:top + height, side:side + width] = True
    return torch.from_numpy(found.reshape(count, -1))


def _coloured(views: Tensor, look: Look, draw: Callable[[float, float], Tensor],
              chance: Callable[[float], Tensor]) -> Tensor:
    """Light, contrast, saturation, grey, blur and inversion, each drawn for each view."""
    def each(x: Tensor) -> Tensor:
        return x[:, None, None, None]
    if look.light:
        views = (views + 1) * each(draw(1 - look.light, 1 + look.light)) - 1
        middle = views.mean((1, 2, 3), keepdim=True)
        views = middle + (views - middle) * each(draw(1 - look.light, 1 + look.light))
    if views.shape[1] == 3 and (look.colour or look.grey):
        luma = (views * views.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        kept = draw(1 - look.colour, 1 + look.colour) * ~chance(look.grey)
        views = luma + (views - luma) * each(kept)
    if look.blur:
        sigma = draw(0.1, 1.0)
        at = torch.arange(-2.0, 3.0)
        kernel = torch.exp(-0.5 * (at / sigma[:, None]).square())
        kernel = torch.where(chance(look.blur)[:, None], kernel / kernel.sum(1, keepdim=True), (at == 0).float())
        views = _filtered(_filtered(views, kernel).mT, kernel).mT
    if look.invert:
        views = torch.where(each(chance(look.invert)), -views, views)
    return views.clamp(-1, 1)


def _filtered(views: Tensor, kernel: Tensor) -> Tensor:
    """Each view's rows with its own kernel [N, 5]."""
    n, channels, height, width = views.shape
    flat = F.pad(views, (2, 2, 0, 0), mode="replicate").reshape(1, n, channels * height, width + 4)
    return F.conv2d(flat, kernel[:, None, None], groups=n).reshape(n, channels, height, width)
