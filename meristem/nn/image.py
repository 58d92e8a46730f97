"""Pictures as tensors: bytes to numbers, and the crops, flips and colours that make two views of one picture.

Random views of a batch, drawn by torch's generator (seeded a step by the trainer): Chen et al. 2020,
https://arxiv.org/abs/2002.05709 (appendix A: random resized crop, flip, colour); DINOv2 uses the same.

    x = between(images)                                        # uint8 [B, C, H, W] -> -1 .. 1
    a = views(x, 32, (0.4, 1.0))                               # [B, C, 32, 32], another crop of each
"""
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

RATIO = (3 / 4, 4 / 3)                  # width over height of a crop (SimCLR, appendix A)


def between(images: Tensor) -> Float[Tensor, "B C H W"]:
    """Bytes as numbers from -1 to 1; what is float already is left alone."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def views(images: Float[Tensor, "B C H W"], size: int, share: tuple[float, float], flip: bool = True,
          colour: float = 0.0) -> Float[Tensor, "B C s s"]:
    """A random crop of each image, `share` of its area (uniform), resized to size x size, mirrored half of the time.

    `colour` in [0, 1]: strength of random brightness, contrast and saturation. Bilinear, all rows at once.
    """
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(*share)
    low, high = (torch.log(torch.tensor(r)) for r in RATIO)
    ratio = torch.exp(torch.rand(count, device=device) * (high - low) + low)
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    across, down = ((2 * torch.rand(count, device=device) - 1) * (1 - side) for side in (width, height))
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    zero = torch.zeros(count, device=device)
    matrix = torch.stack([torch.stack([width * mirror, zero, across], 1), torch.stack([zero, height, down], 1)], 1)
    at = F.affine_grid(matrix, [count, images.shape[1], size, size], align_corners=False)
    made = F.grid_sample(images, at, mode="bilinear", padding_mode="reflection", align_corners=False)
    return jitter(made, colour) if colour else made


def jitter(images: Float[Tensor, "B C H W"], strength: float) -> Float[Tensor, "B C H W"]:
    """Random brightness (added), contrast and saturation (scaled about the mean) a picture, kept in -1 .. 1."""
    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)
    x = images + draw(-0.4, 0.4) * strength
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + draw(-0.4, 0.4) * strength)
    grey = x.mean(1, keepdim=True)
    return (grey + (x - grey) * (1 + draw(-0.8, 0.8) * strength)).clamp(-1, 1)
