"""Fifteen ways in which pictures are corrupted, as in ImageNet-C: Hendrycks & Dietterich 2019, section 3.

    corrupted(pixels, "fog", severity=3, seed=0)               # uint8 [N, C, H, W], severities 1 to 5

https://arxiv.org/abs/1903.12261. Four kinds: noise, blur, weather, digital. Strengths are ours, in shares of the side,
so that small pictures are corrupted as much as large ones; frost and snow are drawn (smooth noise, streaks), since
ImageNet-C's photographs of ice are not ours to ship.
"""
import io
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of

Pictures = Float[Tensor, "N C H W"]     # 0 to 1
Step = Callable[[Tensor, float, np.random.Generator], Tensor]


def corrupted(pixels: UInt8[np.ndarray, "N C H W"], name: str, severity: int = 3,
              seed: int = 0) -> UInt8[np.ndarray, "N C H W"]:
    """Every picture corrupted; RequestError for an unknown name or a severity outside 1 to 5."""
    if name not in CORRUPTIONS:
        raise RequestError(f"no corruption {name!r}; {nearest(name, CORRUPTIONS)}")
    if not 1 <= severity <= 5:
        raise RequestError(f"severity {severity} must be 1 to 5")
    x = torch.from_numpy(np.array(pixels)).float() / 255
    rng = np.random.default_rng(seed_of(seed, name, severity))
    return (CORRUPTIONS[name](x, severity / 5, rng).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def gaussian_noise(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Normal noise on every pixel."""
    return x + 0.4 * s * _normal(x.shape, rng)


def shot_noise(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Photons that are counted: Poisson noise."""
    light = 60 * (1 - 0.93 * s)
    return torch.from_numpy(rng.poisson((x * light).numpy()).astype(np.float32)) / light


def impulse_noise(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Pixels that are black or white."""
    draw = torch.from_numpy(rng.random(x.shape).astype(np.float32))
    return torch.where(draw < 0.15 * s, torch.zeros(()), torch.where(draw > 1 - 0.15 * s, torch.ones(()), x))


def defocus_blur(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """A disc-shaped kernel."""
    radius = max(1.0, 0.1 * s * x.shape[-1])
    size = int(radius)
    grid = torch.arange(-size, size + 1).float()
    return _filtered(x, (grid[:, None]**2 + grid[None]**2 <= radius**2).float())


def glass_blur(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Pixels exchanged with near ones, then softened."""
    reach = 0.06 * s * 2
    return _filtered(_warped(x, reach * (torch.from_numpy(rng.random((2, *x.shape[-2:])).astype(np.float32)) - 0.5)),
                     torch.ones(3, 3))


def motion_blur(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """A slanting line as the kernel."""
    size = max(3, int(0.35 * s * x.shape[-1]) | 1)
    return _filtered(x, torch.eye(size))


def zoom_blur(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """The mean of enlargements."""
    return torch.stack([_zoomed(x, 1 + 0.4 * s * k / 6) for k in range(7)]).mean(0)


def snow(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """White streaks on a paler picture."""
    flakes = torch.from_numpy((rng.random((len(x), 1, *x.shape[-2:])) > 1 - 0.06 * s).astype(np.float32))
    streaks = _filtered(flakes, torch.eye(max(3, int(0.12 * x.shape[-1]) | 1))) * 4
    return torch.maximum(x, 0.6 * x + 0.4 * s * x.mean(1, keepdim=True)) + streaks.clamp(0, 1)


def frost(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Crystals: smooth noise where it is high."""
    ice = (_clouds(x, rng, 8) * 2 - 0.8).clamp(0, 1)
    return x * (1 - 0.8 * s * ice) + 0.9 * s * ice


def fog(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Clouds over everything."""
    veil = 0.4 + 0.6 * _clouds(x, rng, 3)
    return x * (1 - 0.85 * s) + 0.85 * s * veil


def brightness(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Lighter."""
    return x + 0.6 * s


def contrast(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Flatter."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (1 - 0.92 * s) + mean


def elastic(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Places moved by smooth noise."""
    field = torch.stack([_clouds(x[:1], rng, 5)[0, 0] - 0.5 for _ in range(2)])
    return _warped(x, 0.6 * s * field)


def pixelate(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """Coarser pixels."""
    side = max(2, int(x.shape[-1] * (1 - 0.8 * s)))
    return F.interpolate(F.interpolate(x, size=(side, side), mode="area"), size=x.shape[-2:], mode="nearest")


def jpeg(x: Tensor, s: float, rng: np.random.Generator) -> Tensor:
    """JPEG at low quality."""
    out = []
    for picture in (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy():
        grey = len(picture) != 3
        image = Image.fromarray(picture[0] if grey else np.ascontiguousarray(picture.transpose(1, 2, 0)))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=max(3, int(30 * (1 - 0.9 * s))))
        back = torch.from_numpy(np.array(Image.open(file))).float() / 255
        out.append(back.expand(len(picture), -1, -1) if grey else back.permute(2, 0, 1))
    return torch.stack(out)


CORRUPTIONS: dict[str, Step] = {f.__name__: f for f in (
    gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog,
    brightness, contrast, elastic, pixelate, jpeg)}


def _normal(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel convolved with a kernel that sums to 1, edges repeated."""
    size = kernel.shape[-1]
    weight = (kernel / kernel.sum()).expand(x.shape[1], 1, size, size)
    padded = F.pad(x, [size // 2] * 4, mode="replicate")
    return F.conv2d(padded, weight, groups=x.shape[1])


def _zoomed(x: Tensor, factor: float) -> Tensor:
    theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]).expand(len(x), -1, -1)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border",
                         align_corners=False)


def _warped(x: Tensor, move: Float[Tensor, "2 H W"]) -> Tensor:
    """Every place takes what stood `move` (shares of the side) away."""
    theta = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(len(x), -1, -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) + 2 * move.permute(1, 2, 0)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _clouds(x: Tensor, rng: np.random.Generator, cells: int) -> Tensor:
    """Smooth noise between 0 and 1, [N, 1, H, W]."""
    coarse = torch.from_numpy(rng.random((len(x), 1, cells, cells)).astype(np.float32))
    return F.interpolate(coarse, size=x.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
