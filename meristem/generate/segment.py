"""Ask a promptable model: masks for clicks and boxes, every object of a picture, masks laid over pictures.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 3 (interactive use) and appendix B (everything: a grid
of clicks, of whose masks the ones stay that are expected to be good, are stable and are not found twice).

    seen = see(module, pixels)                                 # uint8 [3, S, S] at the model's side
    found = ask(module, seen, *prompts(torch.tensor([[30.0, 20.0]])[None]))
    picture = overlay(pixels, found.masks.numpy(), clicks=[(30, 20, True)])
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.nn.image import between
from meristem.nn.segment import OBJECT, box_overlap, boxes_of, choose, grown, overlap, prompts

TOGETHER = 64                           # prompts answered at once
COLOURS = ((230, 60, 60), (60, 130, 240), (60, 190, 90), (240, 180, 40), (170, 80, 210), (40, 200, 210),
           (240, 120, 180), (150, 110, 60))


class Promptable(Protocol):
    """A model that is prompted for masks."""

    def encode(self, images: Tensor) -> Tensor:
        """Pictures as the decoder sees them."""
        ...

    def decode(self, seen: Tensor, points: Tensor, signs: Tensor, drafts: Tensor | None,
               drafted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mask logits [B, P, M, h, w] and their expected IoU [B, P, M]."""
        ...


@dataclass(frozen=True)
class Found:
    """The answers to P prompts: the mask that answers each, what IoU it expects, and all masks it weighed."""

    masks: Bool[Tensor, "P H W"]
    quality: Float[Tensor, "P"]
    drafts: Float[Tensor, "P h w"]      # logits of the answer, for the next round
    all_masks: Bool[Tensor, "P M H W"]
    all_quality: Float[Tensor, "P M"]
    all_logits: Float[Tensor, "P M H W"]


def promptable(module: nn.Module) -> str:
    """"", or why a model cannot be prompted for masks."""
    return "" if "decoder_heads" in vars(module.config) else "this model answers no prompts with masks"


@torch.no_grad()
def see(module: nn.Module, pixels: UInt8[np.ndarray, "C H W"]) -> Float[Tensor, "1 D G G"]:
    """A picture as the decoder sees it; RequestError for a model that is not promptable or another side."""
    if why := promptable(module):
        raise RequestError(why)
    side = vars(module.config)["image"]
    if pixels.shape[1:] != (side, side):
        raise RequestError(f"this model sees pictures of {side} x {side} pixels, not {pixels.shape[2]} x "
                           f"{pixels.shape[1]}")
    return cast(Promptable, module).encode(between(torch.from_numpy(np.array(pixels))[None]))


@torch.no_grad()
def ask(module: nn.Module, seen: Float[Tensor, "1 D G G"], points: Float[Tensor, "P N 2"], signs: Int[Tensor, "P N"],
        drafts: Float[Tensor, "P h w"] | None = None) -> Found:
    """Answer P prompts about one picture; a single click without a draft is ambiguous, anything else is clear."""
    side, out = vars(module.config)["image"], []
    for first in range(0, len(points), TOGETHER):
        rows = slice(first, first + TOGETHER)
        given = None if drafts is None else drafts[None, rows]
        logits, quality = cast(Promptable, module).decode(seen, points[None, rows], signs[None, rows], given, None)
        out.append((grown(logits[0].float(), side), quality[0].float(), logits[0].float()))
    logits, quality, small = (torch.cat(parts) for parts in zip(*out, strict=True))
    alone = (signs >= 0).sum(1) == 1
    sure = torch.full_like(alone, drafts is not None) | ~alone
    best, row = choose(quality, sure), torch.arange(len(points))
    return Found(logits[row, best] > 0, quality[row, best], small[row, best], logits > 0, quality, logits)


def everything(module: nn.Module, pixels: UInt8[np.ndarray, "C S S"], *, grid: int = 16, least: float = 0.6,
               stable: float = 0.8, twice: float = 0.7) -> tuple[Bool[Tensor, "N H W"], Float[Tensor, "N"]]:
    """Masks of all objects and the IoU they expect, best first.

    `grid` x `grid` clicks; a mask stays that expects an IoU of `least`, hardly changes when its threshold does
    (`stable`, the IoU of its masks at logits of +1 and -1), and overlaps no better one by `twice` in its mask.
    """
    side = vars(module.config)["image"]
    at = (torch.arange(grid) + 0.5) / grid * side - 0.5
    clicks = torch.stack([at.expand(grid, -1), at[:, None].expand(-1, grid)], -1).reshape(-1, 1, 2)
    found = ask(module, see(module, pixels), *prompts(clicks))
    masks, quality = found.all_masks[:, 1:].flatten(0, 1), found.all_quality[:, 1:].flatten()
    logits = found.all_logits[:, 1:].flatten(0, 1)
    steady = overlap(logits > 1, logits > -1)
    kept = (quality >= least) & (steady >= stable) & masks.flatten(1).any(1)
    masks, quality = masks[kept], quality[kept]
    order = quality.argsort(descending=True)
    masks, quality = masks[order], quality[order]
    boxes, stays = boxes_of(masks), list[int]()
    near = box_overlap(boxes, boxes) if len(boxes) else torch.zeros(0, 0)
    for n in range(len(masks)):
        rivals = [s for s in stays if near[n, s] >= twice / 2]
        if all(float(overlap(masks[n], masks[s])) < twice for s in rivals):
            stays.append(n)
    return masks[stays], quality[stays]


def overlay(pixels: UInt8[np.ndarray, "C H W"], masks: Bool[np.ndarray, "N H W"],
            clicks: Sequence[tuple[float, float, bool]] = (),
            boxes: Sequence[tuple[float, float, float, float]] = ()) -> UInt8[np.ndarray, "3 H W"]:
    """The picture with masks in colours, their edges bright; clicks on the object white, others black, boxes white."""
    out = np.repeat(pixels, 3 // len(pixels), 0).astype(np.float64)
    for n, mask in enumerate(masks):
        inner = mask.copy()
        for axis in (0, 1):
            for step in (1, -1):
                inner &= np.roll(mask, step, axis)
        colour = np.array(COLOURS[n % len(COLOURS)], dtype=np.float64)[:, None]
        out[:, mask] = 0.45 * out[:, mask] + 0.55 * colour
        out[:, mask & ~inner] = 0.3 * 255 + 0.7 * colour
    for left, top, right, bottom in boxes:
        x0, y0, x1, y1 = (round(v) for v in (left, top, right, bottom))
        out[:, [y0, y1], x0:x1 + 1] = 255
        out[:, y0:y1 + 1, [x0, x1]] = 255
    reach = max(1, out.shape[2] // 64)
    for x, y, good in clicks:
        rows, columns = (slice(max(0, round(v) - reach), round(v) + reach + 1) for v in (y, x))
        out[:, rows, columns] = 0 if good else 255             # a rim that shows on any ground
        out[:, round(y), round(x)] = 255 if good else 0
    return out.round().astype(np.uint8)


def single(points: Float[Tensor, "P 2"]) -> tuple[Float[Tensor, "P 2 2"], Int[Tensor, "P 2"]]:
    """One click on each object."""
    return prompts(points[:, None], torch.full((len(points), 1), OBJECT))
