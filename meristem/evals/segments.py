"""What tasks about masks share: the labelled objects of test pictures, and segmentation that needs no network.

`flood` grows a region of like colour from a click, `ellipse` fills a box, `pieces` cuts a picture into connected parts
whose colour differs from the ground's: baselines that any model of masks must beat.
"""
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.objects import SHADOW
from meristem.data.segments import Mapped
from meristem.evals.base import Item
from meristem.evals.pictures import Pictured
from meristem.generate.segment import promptable

SIDE = 64                               # at which baselines look at pictures, and items are chosen
TOLERANCE = 40.0                        # distance of two colours that belong together, of 442


class Masked(Pictured):
    """Base class: items are objects of test pictures that have a label map; the prompt is `picture#object`."""

    shadows: bool | None = False        # whether the objects are the shadows, everything but them, or (None) both

    def fits(self, module: nn.Module) -> str:
        """A promptable model is needed."""
        return promptable(module)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """The objects of pictures that a seeded order names, until there are `limit`: pictures stay whole."""
        if not any("masks" in d.fields for d in corpus.documents("test")):
            return []
        data, found = Mapped.of(corpus, "test", SIDE, 3), list[Item]()
        for n in np.random.default_rng(seed_of(seed, self.name)).permutation(len(data.ids)):
            found += [Item(data.ids[n], f"{data.images[n]}#{which}", name or "object")
                      for which, (name, _) in enumerate(data.objects[n]) if self.shadows in (None, name == SHADOW)]
            if len(found) >= limit:
                break
        return found[:limit]


def by_picture(corpus: Corpus, items: Sequence[Item], side: int,
               channels: int) -> Iterator[tuple[UInt8[np.ndarray, "C S S"], Bool[torch.Tensor, "P S S"], list[int]]]:
    """Each picture with the masks of the items that are in it and their places among the items.

    Objects are counted at SIDE and named by their regions, so another side has the same ones.
    """
    named, here = Mapped.of(corpus, "test", SIDE, 3), Mapped.of(corpus, "test", side, channels)
    row_of = {name: n for n, name in enumerate(named.images)}
    groups: dict[str, list[int]] = {}
    for n, item in enumerate(items):
        groups.setdefault(item.prompt.rpartition("#")[0], []).append(n)
    for image, places in groups.items():
        row = row_of[image]
        which = [named.objects[row][int(items[n].prompt.rpartition("#")[2])][1] for n in places]
        masks = np.stack([np.isin(here.maps[row], regions) for regions in which])
        yield np.asarray(here.pixels[row]), torch.from_numpy(masks), places


def flood(pixels: UInt8[np.ndarray, "C H W"], x: int, y: int, tolerance: float = TOLERANCE) -> Bool[np.ndarray, "H W"]:
    """The connected places around a click whose colour is near the click's (the mean of 3 x 3 there)."""
    colour = pixels[:, max(0, y - 1):y + 2, max(0, x - 1):x + 2].reshape(len(pixels), -1).mean(1)
    like = np.sqrt(((pixels - colour[:, None, None])**2).sum(0)) <= tolerance
    like[y, x] = True
    return pieces_of(like) == pieces_of(like)[y, x]


def ellipse(box: Float[torch.Tensor, "4"], side: int) -> Bool[np.ndarray, "side side"]:
    """The ellipse that a box encloses."""
    left, top, right, bottom = box.tolist()
    at = np.arange(side)
    across = (at - (left + right) / 2) / ((right - left + 1) / 2)
    down = (at - (top + bottom) / 2) / ((bottom - top + 1) / 2)
    return across[None]**2 + down[:, None]**2 <= 1


def pieces(pixels: UInt8[np.ndarray, "C H W"], tolerance: float = TOLERANCE) -> Bool[np.ndarray, "N H W"]:
    """Connected parts whose colour differs from the median of the picture's rim, the largest first."""
    rim = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    unlike = np.sqrt(((pixels - np.median(rim, 1)[:, None, None])**2).sum(0)) > tolerance
    labels = pieces_of(unlike)
    numbers, sizes = np.unique(labels[unlike], return_counts=True)
    order = numbers[np.argsort(-sizes, kind="stable")]
    return np.array([labels == number for number in order[:100]], dtype=bool).reshape(-1, *unlike.shape)


def pieces_of(mask: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """A number for each connected part of a mask (up, down, left, right), the same at all its places; 0 outside.

    Every place takes the largest number of its neighbours until nothing changes, along whole runs at a time.
    """
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        before = labels
        for _ in range(2):                                     # along rows, then along columns
            for _ in range(2):                                 # forward, then backward
                run = np.cumsum(labels == 0, 1) * (mask.size + 2)              # a gap starts a new run
                labels = np.where(labels > 0, np.maximum.accumulate(labels + run, 1) - run, 0)[:, ::-1]
            labels = labels.T
        if np.array_equal(labels, before):
            return labels
