"""Pictures before and after an edit of a scene with a cast shadow, which must follow: moved, taken away, lit anew.

    meristem curate toy:shadows documents=6000 --out runs/shadows
    meristem pretrain instruct data.corpus=runs/shadows --out runs/instruct    # as for toy:edits

One thing of data.objects stands on a patterned ground; a sentence asks for an edit, and the picture after it is
rendered from the edited scene by the same rays, so where the shadow must then fall is known to the pixel
(`objects.shadow_found` judges). Rows are those of data.edits, their label is what is done. The test split shows six
shapes that training does not.
"""
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.objects import PATTERNS, SEEN, UNSEEN, Look, Scene, Thing, moved, render, without

WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "top": (0.0, -1.0), "bottom": (0.0, 1.0)}
KINDS = ("move", "light", "remove")
FAR = 0.3                               # of the picture's side: how far a thing is moved


@dataclass(frozen=True)
class Shadows:
    """What pairs are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 6000
    seed: int = 0
    side: int = 16

    def __post_init__(self) -> None:
        if self.documents < 1 or not 16 <= self.side <= 256:
            raise RequestError(f"toy:shadows has a document and a side of 16 to 256 pixels, not {self}")

    def edit(self, split: str, number: int) -> tuple[Scene, Scene, str, str]:
        """(the scene before, after, the sentence, which of KINDS it is)."""
        rng = np.random.default_rng(seed_of("shadows", self.seed, split, number))
        shapes, ways = UNSEEN if split == "test" else SEEN, list(WAYS)
        kind, way, light = KINDS[rng.integers(len(KINDS))], ways[rng.integers(4)], WAYS[ways[rng.integers(4)]]
        place = np.array([0.5, 0.5]) + rng.uniform(-0.12, 0.12, 2) - (FAR / 2 if kind == "move" else 0) * np.array(
            WAYS[way])
        thing = Thing(shapes[rng.integers(len(shapes))], float(place[0]), float(place[1]),
                      float(rng.uniform(0.15, 0.22)), float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.15, 0.25)),
                      look(rng, 30, 230))
        before = Scene((thing,), look(rng, 150, 240), light, int(rng.integers(2**31)))
        if kind == "move":
            x, y = (float(v) for v in place + FAR * np.array(WAYS[way]))
            return before, moved(before, 0, x, y), f"move it to the {way}", kind
        if kind == "remove":
            return before, without(before, 0), "take it away", kind
        way = [name for name in ways if WAYS[name] != light][rng.integers(3)]
        return before, dataclasses.replace(before, light=WAYS[way]), f"light it from the {way}", kind


def look(rng: np.random.Generator, low: int, high: int) -> Look:
    """Two near colours in a pattern that a small picture can show."""
    first = rng.integers(low, high, 3)
    second = (first + rng.integers(-40, 41, 3)).clip(low, 250)
    one, two = (tuple(int(v) for v in colour) for colour in (first, second))
    return Look(one, two, PATTERNS[rng.integers(len(PATTERNS))],               # type: ignore[arg-type]
                float(rng.uniform(1.5, 3)), float(rng.uniform(0, np.pi)), float(rng.uniform(0, 1)))


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Shadows, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            before, after, said, what = kind.edit(split, number)
            name = f"{split}-{number:06}"
            (folder / f"{name}.before.png").write_bytes(encode(render(before, kind.side).picture))
            (folder / f"{name}.png").write_bytes(encode(render(after, kind.side).picture))
            yield {"image": f"{name}.png", "images": [f"{name}.before.png"], "text": said, "label": what}

    return made(out, "toy pictures", LICENCE, rows)
