"""Procedural sounds with exact ground truth: words of a small made-up language, sung by voices that differ.

    meristem curate toy:tones documents=400 --out runs/tones

A word is one to three syllables; a syllable is a tone of one of four pitches (as a ratio to the voice's own) with one
of three colours (how its overtones fall off). Text is what is said ("ba do"), the label its first syllable. `voices`
sing in training and validation, and as many others, between them in pitch, in the test split: held-out speakers.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from meristem.codecs.audio import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus

PITCHES = {"a": 1.0, "e": 1.26, "o": 1.59, "u": 2.0}           # thirds of an octave over the voice's own
COLOURS = {"b": 0.15, "d": 0.45, "s": 0.8}                     # of each overtone, the share of the one below
OVERTONES, RATE = 8, 8000


@dataclass(frozen=True)
class Tones:
    """What sounds are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 400
    seed: int = 0
    syllables: int = 2                  # at most
    voices: int = 4

    def __post_init__(self) -> None:
        if self.documents < 1 or not 1 <= self.syllables <= 3 or not 1 <= self.voices <= 40:
            raise RequestError(f"toy:tones has a document, 1 to 3 syllables and 1 to 40 voices at least, not {self}")

    def sound(self, split: str, number: int) -> tuple[Float32[np.ndarray, "N"], str]:
        """The samples of one word, and its syllables."""
        rng = np.random.default_rng(seed_of("tones", self.seed, split, number))
        voice = int(rng.integers(self.voices)) + (0.5 if split == "test" else 0.0)
        base = 120.0 * 2 ** (voice / (2 * self.voices))
        said = [(list(COLOURS)[rng.integers(3)], list(PITCHES)[rng.integers(4)])
                for _ in range(int(rng.integers(1, self.syllables + 1)))]
        parts = [np.zeros(int(RATE * rng.uniform(0.01, 0.04)))]
        for colour, pitch in said:
            at = np.arange(int(RATE * rng.uniform(0.14, 0.2))) / RATE
            tone = sum(COLOURS[colour] ** k * np.sin(2 * np.pi * base * PITCHES[pitch] * (k + 1) * at)
                       for k in range(OVERTONES))
            rise = np.minimum(1, np.minimum(at, at[::-1]) / 0.02)
            parts += [tone * rise / np.abs(tone).max(), np.zeros(int(RATE * 0.03))]
        x = np.concatenate(parts)
        return (0.4 * x + 0.01 * rng.standard_normal(len(x))).astype(np.float32), " ".join(map("".join, said))


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and sounds in `out`.rows."""
    kind = from_dict(Tones, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            samples, said = kind.sound(split, number)
            name = f"{split}-{number:06}.wav"
            (folder / name).write_bytes(encode(samples, RATE))
            yield {"audio": name, "text": said, "label": said.split(" ")[0]}

    return made(out, "toy sounds", LICENCE, rows)
