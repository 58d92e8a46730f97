"""Prompted models: who answers which prompt, everything in a picture found once, masks laid over pictures."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.generate.segment import ask, everything, overlay, see, single
from meristem.models.vit import Config, Model
from meristem.nn.segment import BLANK, prompts

BOXES = [(2, 3, 9, 12), (18, 4, 29, 10), (5, 20, 27, 29)]


class Knows(nn.Module):
    """A promptable model that knows three boxes: mask 1 is the one clicked on, 2 a part of it, 3 and 0 everything."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image=32, channels=3, decoder_heads=1)
        self.asked: list[torch.Tensor | None] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1]

    def decode(self, seen, points, signs, drafts, drafted):
        self.asked.append(drafts)
        masks = torch.full((1, points.shape[1], 4, 32, 32), -5.0)
        quality = torch.tensor([0.9, 0.8, 0.3, 0.2]).repeat(1, points.shape[1], 1)
        masks[:, :, 0] = masks[:, :, 3] = 5.0
        for n in range(points.shape[1]):
            x, y = points[0, n, 0].tolist()
            inside = [b for b in BOXES if b[0] <= x <= b[2] and b[1] <= y <= b[3]]
            if not inside:
                quality[0, n] = 0.1
            for left, top, right, bottom in inside:
                masks[0, n, 1, top:bottom + 1, left:right + 1] = 5.0
                masks[0, n, 2, top:bottom, left:right] = 5.0
        return masks, quality


PIXELS = np.zeros((3, 32, 32), np.uint8)


def test_one_click_is_answered_by_the_best_of_three_and_a_box_or_more_clicks_by_the_first() -> None:
    module = Knows()
    seen = see(module, PIXELS)
    clicks = torch.tensor([[4.0, 5.0], [20.0, 6.0]])
    found = ask(module, seen, *single(clicks))
    assert found.masks.sum((1, 2)).tolist() == [80, 84] and found.quality.tolist() == pytest.approx([0.8, 0.8])
    assert found.all_masks.shape == (2, 4, 32, 32) and module.asked == [None]
    assert ask(module, seen, *prompts(boxes=torch.tensor([[2.0, 3, 9, 12]]))).masks.all()
    two = prompts(torch.stack([clicks, clicks], 1), torch.ones(2, 2, dtype=torch.long))
    assert two[1][0].tolist() == [1, 1, BLANK] and ask(module, seen, *two).masks.all()
    assert ask(module, seen, *single(clicks), found.drafts).masks.all() and module.asked[-1].shape == (1, 2, 32, 32)
    many = torch.rand(70, 2, generator=torch.Generator().manual_seed(0)) * 31
    assert len(ask(module, seen, *single(many)).masks) == 70


def test_everything_is_found_once() -> None:
    masks, quality = everything(Knows(), PIXELS, grid=12)
    assert sorted(int(m.sum()) for m in masks) == sorted((r - x + 1) * (b - y + 1) for x, y, r, b in BOXES)
    assert quality.tolist() == pytest.approx([0.8] * 3)
    assert len(everything(Knows(), PIXELS, grid=12, least=0.9)[0]) == 0


def test_masks_and_prompts_lie_over_the_picture() -> None:
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 4:12, 4:12] = True
    made = overlay(PIXELS, mask, clicks=[(8.0, 8.0, True), (0.0, 31.0, False)], boxes=[(2.0, 2.0, 14.0, 14.0)])
    assert made.shape == (3, 32, 32) and made.dtype == np.uint8
    assert made[0, 6, 6] > made[1, 6, 6] and made[:, 20, 20].max() == 0
    assert (made[:, 8, 8] == 255).all() and (made[:, 7, 8] == 0).all() and (made[:, 2, 5] == 255).all()
    assert made[:, 4, 4].sum() > made[:, 6, 6].sum(), "the edge is brighter"
    assert overlay(PIXELS[:1], mask).shape == (3, 32, 32)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(RequestError, match="no prompts"):
        see(Model(Config(image=32, patch=8, dim=16, layers=1, heads=2)), PIXELS)
    with pytest.raises(RequestError, match="32 x 32"):
        see(Knows(), np.zeros((3, 16, 32), np.uint8))
