"""Eight small tasks of four senses in one corpus: words, pictures, sounds and series of numbers, truth known exactly.

    meristem curate toy:senses documents=16000 --out runs/senses
    meristem pretrain senses data.corpus=runs/senses --out runs/one

| label | what is given | what is asked |
| --- | --- | --- |
| sort | five letters | the same in the order of the alphabet |
| reverse | five letters | the same from the last to the first |
| shape | a picture of one thing | which of six shapes it is |
| count | a picture of one to four things | how many there are |
| note | a sound: its log-mel frames as a picture | which of five notes it is |
| voice | the same | what plays it: one of four overtone series |
| trend | sixteen numbers, each a token of its bin | rising, falling, a wave or level |
| jump | the same | whether its step is early, in the middle or late |

A sound is read as the picture of its spectrogram, as the Audio Spectrogram Transformer reads it (Gong et al. 2021,
https://arxiv.org/abs/2104.01778), a series as RT-2's numbers are (codecs.action). The row's label is its task, so the
task `visual_answers` scores each. Everything is a function of the fields and the seed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from meristem.codecs.audio import Mel, log_mel
from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.scenes import COLOURS, SHAPES, Object, draw

TASKS = ("sort", "reverse", "shape", "count", "note", "voice", "trend", "jump")
COUNTS = ("one", "two", "three", "four")
CORNERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))
NOTES = {"c": 523.0, "d": 587.0, "e": 659.0, "g": 784.0, "a": 880.0}           # Hz: the octave above middle C
VOICES = {"flute": (1.0,), "clarinet": (1.0, 0.0, 0.8, 0.0, 0.5), "violin": (1.0, 0.8, 0.7, 0.6, 0.5),
          "bell": (1.0, 0.0, 0.0, 0.9)}                        # how loud each overtone is, from the first
TRENDS, STEPS = ("rising", "falling", "wave", "level"), ("early", "middle", "late")
LETTERS, NUMBERS = "abcdefghij", 16
RATE, HOP = 8000, 128                   # samples a second, and a frame


@dataclass(frozen=True)
class Senses:
    """What rows are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 16_000
    seed: int = 0
    side: int = 32                      # of pictures, and mel bands and frames of sounds

    def __post_init__(self) -> None:
        if self.documents < 1 or not 16 <= self.side <= 128:
            raise RequestError(f"toy:senses has a document and a side of 16 to 128 pixels, not {self}")

    def row(self, split: str, number: int) -> tuple[UInt8[np.ndarray, "3 S S"] | None, Row]:
        """A picture, if there is one, and the words and numbers of one row; the tasks come in turn."""
        rng, task = np.random.default_rng(seed_of("senses", self.seed, split, number)), TASKS[number % len(TASKS)]
        if task in ("sort", "reverse"):
            letters = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:5]]
            order = sorted(letters) if task == "sort" else letters[::-1]
            return None, {"input": f"{task} {' '.join(letters)}", "target": " ".join(order), "label": task}
        if task in ("shape", "count"):
            things = self.things(rng, int(rng.integers(len(COUNTS))) + 1 if task == "count" else 1)
            said = things[0].shape if task == "shape" else COUNTS[len(things) - 1]
            asked = "which shape?" if task == "shape" else "how many things?"
            return draw(things, self.side)[0], {"input": asked, "target": said, "label": task}
        if task in ("note", "voice"):
            note, voice = list(NOTES)[rng.integers(len(NOTES))], list(VOICES)[rng.integers(len(VOICES))]
            said, asked = (note, "which note?") if task == "note" else (voice, "what plays?")
            return shown(sound(rng, NOTES[note], VOICES[voice], self.side)), {
                "input": asked, "target": said, "label": task}
        answers = TRENDS if task == "trend" else STEPS
        said = answers[rng.integers(len(answers))]
        numbers = [round(float(x), 4) for x in series(rng, said)]
        return None, {"input": f"which {task}?", "state": numbers, "target": said, "label": task}

    def things(self, rng: np.random.Generator, count: int) -> list[Object]:
        """One thing anywhere, or several in corners of their own."""
        places = [CORNERS[i] for i in rng.permutation(4)[:count]]
        radii, apart = rng.uniform(0.12, 0.2, count), rng.uniform(-0.03, 0.03, (count, 2))
        if count == 1:
            radii = rng.uniform(0.15, 0.36, 1)
            x, y = rng.uniform(radii[0], 1 - radii[0], 2)
            places, apart = [(float(x), float(y))], np.zeros((1, 2))
        return [Object(list(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))], x + dx, y + dy, r)
                for (x, y), (dx, dy), r in zip(places, apart.tolist(), radii.tolist(), strict=True)]


def sound(rng: np.random.Generator, pitch: float, voice: tuple[float, ...], frames: int) -> Float[np.ndarray, "N"]:
    """A note of some loudness, begun at some time, within 1 % of its pitch, in white noise 26 dB below it."""
    at = np.arange(frames * HOP) / RATE
    own = pitch * (1 + rng.uniform(-0.01, 0.01))
    wave = sum(loud * np.sin(2 * np.pi * own * (n + 1) * at + rng.uniform(0, 6.28)) for n, loud in enumerate(voice))
    begins = rng.uniform(0, 0.4) * at[-1]
    heard = np.where(at < begins, 0.0, np.exp(-(at - begins) / rng.uniform(0.3, 1.0))) * wave
    return rng.uniform(0.1, 0.9) * (heard / np.abs(heard).max() + 0.05 * rng.standard_normal(len(at)))


def shown(samples: Float[np.ndarray, "N"]) -> UInt8[np.ndarray, "3 S S"]:
    """A sound's log-mel frames as a grey picture, low bands at the bottom."""
    frames = log_mel(samples, Mel(RATE, 4 * HOP, HOP, len(samples) // HOP))
    grey = ((frames[::-1] + 1) / 2.5).clip(0, 1)
    return np.repeat((grey * 255).round().astype(np.uint8)[None], 3, axis=0)


def series(rng: np.random.Generator, said: str) -> Float[np.ndarray, "16"]:
    """Numbers from -1 to 1 that do what is said, with noise."""
    at = np.linspace(-1, 1, NUMBERS)
    if said in STEPS:
        place = 2 + 4 * STEPS.index(said) + int(rng.integers(4))               # 2 to 5, 6 to 9, 10 to 13
        made_up = np.where(np.arange(NUMBERS) < place, -1.0, 1.0) * rng.uniform(0.25, 0.45) * rng.choice([-1, 1])
    elif said == "wave":
        made_up = 0.5 * np.sin(np.pi * rng.uniform(2, 3.5) * at + rng.uniform(0, 6.28))
    else:
        made_up = at * rng.uniform(0.3, 0.6) * {"rising": 1, "falling": -1, "level": 0}[said]
    return (made_up + rng.uniform(-0.3, 0.3) + 0.08 * rng.standard_normal(NUMBERS)).clip(-1, 1)


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Senses, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(len(TASKS), kind.documents // 10)):
            picture, row = kind.row(split, number)
            if picture is not None:
                (folder / f"{split}-{number:06}.png").write_bytes(encode(picture))
            yield {**({"image": f"{split}-{number:06}.png"} if picture is not None else {}), **row}

    return made(out, "toy rows", LICENCE, rows)
