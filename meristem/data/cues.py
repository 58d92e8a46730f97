"""Pictures whose shape and texture can disagree: what a network goes by when it names them.

    meristem curate toy:cues documents=2000 --out runs/cues

Geirhos et al. 2018, https://arxiv.org/abs/1811.12231, section 2. In training and validation each shape is filled with
the texture of its own class; in the test split with that of another, and the caption says which: "a circle with the
texture of a square". The label is the shape. Everything is a function of the fields and the seed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.scenes import SHAPES, covers

TEXTURES = ("level stripes", "upright stripes", "slanted stripes", "checks", "dots", "noise")      # of SHAPES, in order
FINE = 4                                # samples a side of each pixel


@dataclass(frozen=True)
class Cues:
    """What pictures are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 2000
    seed: int = 0
    side: int = 32

    def __post_init__(self) -> None:
        if not 16 <= self.side <= 256 or self.documents < 1:
            raise RequestError(f"toy:cues has at least one document of 16 to 256 pixels a side, not {self}")

    def row(self, split: str, number: int) -> tuple[UInt8[np.ndarray, "1 S S"], str, str]:
        """(picture, shape, whose texture it has)."""
        rng = np.random.default_rng(seed_of("cues", self.seed, split, number))
        shape = texture = int(rng.integers(len(SHAPES)))
        if split == "test":
            texture = (shape + int(rng.integers(1, len(SHAPES)))) % len(SHAPES)
        return draw(shape, texture, self.side, rng)[None], SHAPES[shape], SHAPES[texture]


def draw(shape: int, texture: int, side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side"]:
    """A shape somewhere on a plain ground, filled with a texture of two tones."""
    fine = side * FINE
    at = (np.arange(fine) + 0.5) / fine
    radius = rng.uniform(0.3, 0.42)
    x, y = (rng.uniform(radius, 1 - radius) for _ in range(2))
    ground, dark, light = rng.uniform(100, 155), rng.uniform(0, 70), rng.uniform(185, 255)
    inside = covers(SHAPES[shape], (at[None] - x) / radius, (at[:, None] - y) / radius)
    tone = np.where(pattern(TEXTURES[texture], side, rng) > 0, light, dark)
    return np.where(inside, tone, ground).reshape(side, FINE, side, FINE).mean((1, 3)).round().astype(np.uint8)


def pattern(texture: str, side: int, rng: np.random.Generator) -> Float[np.ndarray, "fine fine"]:
    """Where a texture is light (above 0), at FINE samples a pixel; its waves are 5 to 6.5 pixels long."""
    x, y = np.meshgrid(*[np.arange(side * FINE) / FINE] * 2)
    wave, (a, b) = 2 * np.pi / rng.uniform(5.0, 6.5), rng.uniform(0, 2 * np.pi, 2)
    if texture == "noise":
        return np.kron(rng.normal(size=(side // 2 + 1,) * 2), np.ones((2 * FINE,) * 2))[:side * FINE, :side * FINE]
    return {"level stripes": np.sin(wave * y + a), "upright stripes": np.sin(wave * x + a),
            "slanted stripes": np.sin(wave * (x + y) / np.sqrt(2) + a),
            "checks": np.sin(wave * x + a) * np.sin(wave * y + b),
            "dots": np.sin(wave * x + a) + np.sin(wave * y + b) - 1.0}[texture]


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Cues, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            picture, shape, texture = kind.row(split, number)
            name = f"{split}-{number:06}.png"
            (folder / name).write_bytes(encode(picture))
            yield {"image": name, "text": f"a {shape} with the texture of a {texture}", "label": shape}

    return made(out, "toy pictures", LICENCE, rows)
