"""Digits as corpora of pictures: drawn by a generator, or real ones from files in MNIST's format.

    meristem curate toy:strokes documents=4000 --out runs/strokes               # drawn, labels "0" to "9"
    meristem curate toy:strokes folder=mnist documents=10000 --out runs/mnist   # *-images-idx3-ubyte(.gz) in mnist/

A drawn digit is one or several lines on a plan of ours, bent, slanted, sized and as thick as the seed says: enough to
train a classifier that reads real ones (synthetic to real). IDX is the format of LeCun, Cortes & Burges
(http://yann.lecun.com/exdb/mnist/): `train-` files become training and validation, `t10k-` files the test split; files
without a prefix are split by hash. Ink is bright, paper dark. All is a function of the fields and the seed.
"""
import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.digits import caption

Line = list[tuple[float, float]]
Rows = Iterator[tuple[UInt8[np.ndarray, "1 S S"], str]]
LARGEST = 256 << 20                     # bytes of a file, unpacked; MNIST has 47 MB


def arc(x: float, y: float, wide: float, high: float, begin: float, end: float) -> Line:
    """Part of an ellipse around (x, y), from one angle to another in turns: 0 right, 0.25 down."""
    turns = np.linspace(begin, end, 13) * 2 * np.pi
    return [(float(x + wide * np.cos(t)), float(y + high * np.sin(t))) for t in turns]


PLANS: dict[str, list[list[Line]]] = {  # of each digit, ways to write it, on a square from -1 to 1, y downwards
    "0": [[arc(0, 0, 0.6, 0.95, 0, 1)], [arc(0, 0, 0.45, 0.95, 0, 1)]],
    "1": [[[(0, -0.95), (0, 0.95)]], [[(-0.35, -0.6), (0, -0.95), (0, 0.95)]],
          [[(-0.35, -0.6), (0, -0.95), (0, 0.95)], [(-0.4, 0.95), (0.4, 0.95)]]],
    "2": [[[*arc(0, -0.45, 0.55, 0.5, 0.5, 1.08), (-0.6, 0.95), (0.65, 0.95)]],
          [[*arc(0, -0.5, 0.5, 0.45, 0.55, 1.15), (-0.3, 0.6), *arc(-0.3, 0.75, 0.25, 0.2, 0.6, 0.1)[4:], (0.7, 0.9)]]],
    "3": [[[*arc(-0.05, -0.48, 0.5, 0.46, 0.55, 1.2), *arc(-0.05, 0.46, 0.58, 0.5, 0.8, 1.45)]],
          [[(-0.5, -0.95), (0.5, -0.95), (-0.05, -0.2), *arc(-0.05, 0.4, 0.55, 0.55, 0.8, 1.4)]]],
    "4": [[[(0.25, 0.95), (0.25, -0.95), (-0.65, 0.3), (0.65, 0.3)]],
          [[(-0.5, -0.9), (-0.5, 0.1), (0.5, 0.1)], [(0.45, -0.9), (0.35, 0.95)]]],
    "5": [[[(0.55, -0.95), (-0.4, -0.95), (-0.5, -0.1), *arc(-0.05, 0.4, 0.58, 0.55, 0.7, 1.4)]],
          [[(-0.4, -0.9), (-0.45, -0.1), *arc(-0.05, 0.4, 0.5, 0.5, 0.72, 1.35)], [(-0.4, -0.9), (0.6, -0.95)]]],
    "6": [[[(0.4, -0.9), (-0.1, -0.55), (-0.5, 0.1), *arc(0, 0.45, 0.5, 0.5, 0.5, -0.5)]],
          [[(0.0, -0.95), (-0.4, 0.0), *arc(0, 0.5, 0.42, 0.42, 0.5, -0.5)]]],
    "7": [[[(-0.6, -0.9), (0.6, -0.9), (-0.1, 0.95)]],
          [[(-0.6, -0.9), (0.6, -0.9), (0.0, 0.95)], [(-0.25, 0.0), (0.5, 0.0)]],
          [[(-0.6, -0.6), (-0.5, -0.9), (0.55, -0.9), (0.2, 0.1), (0.1, 0.95)]]],
    "8": [[arc(0, -0.48, 0.45, 0.45, 0.25, 1.25), arc(0, 0.47, 0.55, 0.48, -0.25, 0.75)],
          [[(0.45, -0.75), *arc(0, -0.5, 0.42, 0.42, 0.9, 0.4), (0.35, 0.3), *arc(0, 0.55, 0.42, 0.4, 0.0, 0.6),
            (0.1, -0.05), (0.45, -0.75)]]],
    "9": [[[*arc(-0.05, -0.45, 0.5, 0.48, 0, -1), (0.4, 0.95)]],
          [[*arc(-0.05, -0.45, 0.48, 0.48, 0, -1), (0.45, 0.3), *arc(0.0, 0.45, 0.45, 0.5, 0.0, 0.35)]]],
}


@dataclass(frozen=True)
class Strokes:
    """What pictures are made, or taken from the IDX files in `folder`, at most so many of each split."""

    documents: int = 4000               # of training (0: all there are); drawn, a tenth of it for each other split
    seed: int = 0
    side: int = 28                      # of drawn ones
    folder: str = ""

    def __post_init__(self) -> None:
        if not 8 <= self.side <= 256 or (self.documents < 1 and not self.folder):
            raise RequestError(f"toy:strokes has at least one document of 8 to 256 pixels a side, not {self}")

    def rows(self, split: str) -> Rows:
        """(picture, digit) of one split; none of a split that IDX files do not have."""
        if self.folder:
            yield from self._real(split)
            return
        for number in range(self.documents if split == "train" else max(1, self.documents // 10)):
            rng = np.random.default_rng(seed_of("strokes", self.seed, split, number))
            digit = str(rng.integers(10))
            yield draw(digit, self.side, rng)[None], digit

    def _real(self, split: str) -> Rows:
        folder = Path(self.folder).expanduser()
        prefixes = [prefix for prefix in ({"train": ("train-", ""), "test": ("t10k-",)}.get(split, ()))
                    if _file(folder, f"{prefix}images-idx3-ubyte")]
        if split == "train" and not prefixes:
            raise RequestError(f"{folder} has no train-images-idx3-ubyte or images-idx3-ubyte, plain or .gz")
        for prefix in prefixes[:1]:
            images = read(folder, f"{prefix}images-idx3-ubyte", 3)
            labels = read(folder, f"{prefix}labels-idx1-ubyte", 1)
            if len(images) != len(labels):
                raise RequestError(f"{folder} has {len(images)} pictures and {len(labels)} labels of {split}")
            order = np.random.default_rng(seed_of("strokes", self.seed, split)).permutation(len(images))
            for row in order[:self.documents or None]:
                yield images[row][None], str(labels[row])


def draw(digit: str, side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side"]:
    """One digit: a plan, bent by two slow waves, then slanted, sized and moved; its lines have smooth edges."""
    plans = PLANS[digit]
    lines = [np.array(one) for one in plans[rng.integers(len(plans))]]
    phase, strength = rng.uniform(0, 2 * np.pi, 4), rng.normal(0, 0.09, 4)
    size, wide = rng.uniform(0.55, 0.75), rng.uniform(0.65, 1.05)
    slant, turn = rng.normal(0.1, 0.2), rng.normal(0, 0.1)
    shift, thick = rng.normal(0, 0.05, 2), rng.uniform(0.05, 0.13)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(at, at)
    near = np.full((side, side), np.inf)
    cos, sin = np.cos(turn), np.sin(turn)
    for points in lines:
        points = points + rng.normal(0, 0.03, points.shape) * (len(points) < 6)
        u, v = points.T
        u, v = (u + strength[0] * np.sin(2 * v + phase[0]) + strength[1] * np.sin(3 * u + phase[1]),
                v + strength[2] * np.sin(2 * u + phase[2]) + strength[3] * np.sin(3 * v + phase[3]))
        u, v = size * (wide * u - slant * v), size * v
        u, v = cos * u - sin * v + shift[0], sin * u + cos * v + shift[1]
        for (a, b), (c, d) in zip(zip(u, v, strict=True), list(zip(u, v, strict=True))[1:], strict=False):
            length = max((c - a) ** 2 + (d - b) ** 2, 1e-9)
            along = np.clip(((x - a) * (c - a) + (y - b) * (d - b)) / length, 0, 1)
            near = np.minimum(near, np.hypot(x - a - along * (c - a), y - b - along * (d - b)))
    edge = 2 / side                                            # a pixel
    ink = np.clip((thick - near) / edge + 0.5, 0, 1)
    return (ink * 255).round().astype(np.uint8)


def read(folder: Path, name: str, axes: int) -> UInt8[np.ndarray, "..."]:
    """The bytes of an IDX file with so many axes; RequestError for any other file."""
    path = _file(folder, name)
    if path is None:
        raise RequestError(f"{folder} has no {name}, plain or .gz")
    try:
        with (gzip.open(path) if path.suffix == ".gz" else open(path, "rb")) as f:
            raw = f.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    head = 4 + 4 * axes
    sizes = np.frombuffer(raw[4:head], dtype=">u4").astype(np.int64) if len(raw) >= head else np.zeros(0)
    if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) != head + int(np.prod(sizes.astype(float))):
        raise RequestError(f"{path} is no IDX file of bytes with {axes} axes, or not all of one")
    if axes == 3 and sizes[1] != sizes[2]:
        raise RequestError(f"{path} holds pictures of {sizes[1]} x {sizes[2]}; they must be square")
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(tuple(int(n) for n in sizes))


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Strokes, dict(fields))
    terms = Path(kind.folder).expanduser() / "LICENSE"
    licence = LICENCE if not kind.folder else terms.read_text(encoding="utf-8") if terms.is_file() else "unknown\n"

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number, (picture, digit) in enumerate(kind.rows(split)):
            name = f"{split}-{number:06}.png"
            (folder / name).write_bytes(encode(picture))
            yield {"image": name, "text": caption(digit), "label": digit}

    return made(out, "toy pictures", licence, rows)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
