"""Real handwritten digits as a corpus of pictures: scikit-learn's, one by one, or in strings to be read.

    meristem curate toy:digits --out runs/digits                            # 1,797 pictures of 8 x 8, labels "0" to "9"
    meristem curate toy:digits places=3 documents=6000 --out runs/strings   # "the number 305", for reading (OCR)

The digits (E. Alpaydin & C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, CC BY 4.0) come with scikit-learn (`pip install scikit-learn`), so nothing is fetched.
Each belongs to one split. Strings are drawn: those of the test split are never in training, neither as a number nor by
any of their pictures. Everything is a function of the fields and the seed.
"""
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
from meristem.corpus.made import Row, made
from meristem.corpus.store import Corpus

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 8                                # of one digit
SHARES = {"train": 0.8, "validation": 0.9, "test": 1.0}        # of the pictures and of the numbers, up to here
LICENCE = ("CC BY 4.0: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning "
           "Repository.\n")


@dataclass(frozen=True)
class Digits:
    """What pictures are made: single digits, each once, or `documents` strings of `places` for training."""

    places: int = 1
    documents: int = 4000               # strings of the training split, a tenth of it for each of the others
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.places <= 4:
            raise RequestError(f"toy:digits makes strings of 1 to 4 places, not {self.places}")

    def rows(self, split: str, images: UInt8[np.ndarray, "N 8 8"],
             classes: np.ndarray) -> list[tuple[UInt8[np.ndarray, "1 S S"], str]]:
        """(picture, number) of one split, in order."""
        own = _part(self.seed, "pictures", len(images), split)
        if self.places == 1:
            return [(images[i][None], str(classes[i])) for i in own]
        numbers = _part(self.seed, f"numbers of {self.places}", 10**self.places, split)
        by_class = [own[classes[own] == digit] for digit in range(10)]
        count = self.documents if split == "train" else max(1, self.documents // 10)
        found = []
        for row in range(count):
            rng = np.random.default_rng(seed_of("digits", self.seed, split, row))
            number = f"{rng.choice(numbers):0{self.places}}"
            picture = np.zeros((1, SIDE * self.places, SIDE * self.places), dtype=np.uint8)
            top = rng.integers(SIDE * (self.places - 1) + 1)
            for place, digit in enumerate(number):
                left = SIDE * place
                picture[0, top:top + SIDE, left:left + SIDE] = images[rng.choice(by_class[int(digit)])]
            found.append((picture, number))
        return found


def caption(number: str) -> str:
    """"the digit three", "the number 305"."""
    return f"the digit {NAMES[int(number)]}" if len(number) == 1 else f"the number {number}"


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows; RequestError without scikit-learn."""
    kind = from_dict(Digits, dict(fields))
    images, classes = _load()

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number, (picture, text) in enumerate(kind.rows(split, images, classes)):
            name = f"{split}-{number:06}.png"
            (folder / name).write_bytes(encode(picture))
            yield {"image": name, "text": caption(text), "label": text}

    return made(out, "toy pictures", LICENCE, rows)


def _load() -> tuple[UInt8[np.ndarray, "N 8 8"], np.ndarray]:
    """Pictures from 0 (paper) to 255 (ink), and which digit each is."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError("toy:digits takes its pictures from scikit-learn, which is not installed: "
                           "pip install scikit-learn") from None
    found = load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8), found.target


def _part(seed: int, what: str, count: int, split: str) -> np.ndarray:
    """The numbers below `count` that belong to a split."""
    place = np.random.default_rng(seed_of("digits", seed, what)).permutation(count) / count
    first = {"train": 0.0, "validation": SHARES["train"], "test": SHARES["validation"]}[split]
    return np.flatnonzero((place >= first) & (place < SHARES[split]))
