"""A classifier of pictures that was trained apart, asked what it sees: who says that a painted picture is right.

    judge = Judge(Path("runs/judge")); judge.named(pixels)     # a label for each picture
"""
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from meristem.core.errors import RequestError
from meristem.evals.pictures import apply, shape
from meristem.hub import hf
from meristem.nn.segment import boxes_of

AROUND = 0.15                           # of a box's longer side, shown on each side of it


class Judge:
    """The classifier in a folder; RequestError for another kind of model."""

    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cached_property
    def loaded(self) -> hf.Loaded:
        """Read when it is first asked."""
        loaded = hf.load(self.folder)
        if vars(loaded.config).get("head") != "image":
            raise RequestError(f"{self.folder} is no classifier of pictures (meristem pretrain vit)")
        return loaded

    @property
    def labels(self) -> tuple[str, ...]:
        """What it tells apart."""
        return tuple(self.loaded.config.labels)

    def named(self, pixels: UInt8[np.ndarray, "N C H W"]) -> list[str]:
        """The label that it sees in each picture."""
        if not len(pixels):
            return []
        module = self.loaded.module
        side, _ = shape(module)

        def logits(images: Tensor) -> Any:
            if images.shape[-1] != side:
                images = torch.nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
            return module(images)

        return [self.labels[i] for i in apply(module, logits, pixels).argmax(1).tolist()]


def crops(pixels: UInt8[np.ndarray, "C H W"], masks: Bool[Tensor, "N H W"],
          side: int) -> UInt8[np.ndarray, "N C side side"]:
    """The square around each mask with a little of what lies around it; beyond the picture is its last pixel."""
    image, out = torch.from_numpy(np.array(pixels)).float(), []
    for left, top, right, bottom in boxes_of(masks).tolist():
        reach = (0.5 + AROUND) * (max(right - left, bottom - top) + 1)
        steps = (torch.arange(side) + 0.5) / side * 2 - 1
        x, y = ((low + high) / 2 + reach * steps for low, high in ((left, right), (top, bottom)))
        grid = torch.stack([(2 * x + 1).expand(side, -1) / image.shape[2] - 1,
                            (2 * y + 1)[:, None].expand(-1, side) / image.shape[1] - 1], -1)
        out.append(torch.nn.functional.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="border",
                                                   align_corners=False)[0])
    made = torch.stack(out) if out else torch.zeros(0, len(pixels), side, side)
    return made.round().clamp(0, 255).to(torch.uint8).numpy()
