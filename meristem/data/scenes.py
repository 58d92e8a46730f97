"""Procedural pictures with exact ground truth: one or two coloured shapes on a plain ground, with a caption and masks.

    meristem curate toy:scenes documents=4000 side=32 --out runs/scenes

A row has a caption ("a red circle left of a blue square"), a label (the first object: "red circle") and a picture;
where each object is visible is its mask. `held_out` of the colour and shape pairs never appear in training: they are
the test split, so that a model's answers about pairs that it has never seen can be told from memory. Everything is a
function of the fields and the seed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 205, 40),
           "purple": (150, 60, 190), "orange": (245, 140, 30), "black": (25, 25, 25), "pink": (245, 130, 180)}
SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond")
RELATIONS = ("left of", "right of", "above", "below")
FINE = 4                                # samples a side of each pixel: edges are smooth


@dataclass(frozen=True)
class Object:
    """One shape: where its middle is and how large it is, in shares of the picture's side."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """"red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scenes:
    """What pictures are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 4000
    seed: int = 0
    side: int = 32
    objects: int = 2                    # at most; one in half of the pictures
    held_out: float = 0.125             # of the pairs of colour and shape, kept for the test split

    def __post_init__(self) -> None:
        if not (8 <= self.side <= 1024 and 1 <= self.objects <= 2 and 0 <= self.held_out <= 0.5):
            raise RequestError("toy:scenes has a side of 8 to 1024 pixels, 1 or 2 objects and at most half of the "
                               f"pairs held out, not {self}")

    def unseen(self) -> list[str]:
        """The pairs that training never shows, each colour at most once more than another."""
        pairs = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        order = np.random.default_rng(seed_of("scenes", self.seed, "held out")).permutation(len(pairs))
        return sorted(pairs[i] for i in order[:round(self.held_out * len(pairs))])

    def scene(self, split: str, number: int) -> tuple[list[Object], str]:
        """The objects of one picture, back to front, and its caption."""
        rng = np.random.default_rng(seed_of("scenes", self.seed, split, number))
        new = set(self.unseen())
        pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES
                 if (f"{colour} {shape}" in new) == (split == "test" and bool(new))]
        colour, shape = pairs[rng.integers(len(pairs))]
        if self.objects == 1 or rng.random() < 0.5:
            radius = rng.uniform(0.22, 0.36)
            x, y = rng.uniform(radius, 1 - radius, 2)
            return [Object(colour, shape, x, y, radius)], f"a {colour} {shape}"
        others = [pair for pair in pairs if pair != (colour, shape)]
        other, relation = others[rng.integers(len(others))], RELATIONS[rng.integers(4)]
        along = sorted(rng.uniform(0.2, 0.3) + offset for offset in (0.0, rng.uniform(0.42, 0.5)))
        across = rng.uniform(0.3, 0.7, 2)
        if relation in ("right of", "below"):
            along = along[::-1]
        first, second = (along, across) if relation in RELATIONS[:2] else (across, along)
        places = list(zip(first, second, strict=True))
        sizes = rng.uniform(0.16, 0.2, 2)
        made = [Object(c, s, float(x), float(y), float(r)) for (c, s), (x, y), r in
                zip(((colour, shape), other), places, sizes, strict=True)]
        return made, f"a {colour} {shape} {relation} a {other[0]} {other[1]}"


def draw(objects: list[Object], side: int, ground: tuple[int, int, int] = (244, 242, 236)) -> tuple[
        UInt8[np.ndarray, "3 side side"], Bool[np.ndarray, "n side side"]]:
    """The picture, and where each object is visible: at more than half of a pixel."""
    fine = side * FINE
    canvas = np.full((fine, fine, 3), ground, dtype=np.float32)
    owner = np.full((fine, fine), -1)
    at = (np.arange(fine) + 0.5) / fine
    for number, one in enumerate(objects):
        inside = covers(one.shape, (at[None] - one.x) / one.radius, (at[:, None] - one.y) / one.radius)
        canvas[inside], owner[inside] = COLOURS[one.colour], number
    coarse = canvas.reshape(side, FINE, side, FINE, 3).mean((1, 3))
    visible = [(owner == n).reshape(side, FINE, side, FINE).mean((1, 3)) > 0.5 for n in range(len(objects))]
    return coarse.round().astype(np.uint8).transpose(2, 0, 1), np.array(visible, dtype=bool).reshape(-1, side, side)


def covers(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points a shape of radius 1 around 0 covers; y grows downwards."""
    r = np.hypot(x, y)
    if shape == "circle":
        return r <= 1
    if shape == "ring":
        return (r <= 1) & (r >= 0.55)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85
    if shape == "diamond":
        return abs(x) + abs(y) <= 1.1
    if shape == "cross":
        return ((abs(x) <= 0.32) & (abs(y) <= 1)) | ((abs(y) <= 0.32) & (abs(x) <= 1))
    assert shape == "triangle", shape
    return (y <= 0.8) & (y >= 1.75 * abs(x) - 0.95)


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Scenes, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            objects, caption = kind.scene(split, number)
            name = f"{split}-{number:06}.png"
            (folder / name).write_bytes(encode(draw(objects, kind.side)[0]))
            yield {"image": name, "text": caption, "label": objects[0].name}

    return made(out, "toy pictures", LICENCE, rows)
