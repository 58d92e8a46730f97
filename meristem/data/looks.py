"""Questions about procedural pictures with exact answers, and new words whose meaning only worked examples show.

    meristem curate toy:looks documents=8000 --out runs/looks                  # questions
    meristem curate toy:looks kind=names shots=8 --out runs/names              # new words

| kind | a row | asks for |
| --- | --- | --- |
| questions | one picture of one to three shapes, a question | colour, shape, count, relation, comparison |
| pairs | two pictures | which one has more shapes |
| names | `shots` pictures, each named, and one more | which of `words` words, drawn anew a row, names its colour |
| words | the same with the colours' names in place of pictures | the same: for a language model that does not see yet |

Answers are balanced where there are two, so that no question gives itself away. The label of a row is the type of its
question. With `held_out`, some pairs of colour and shape appear in the test split only, where every scene has one; what
is asked about them has no likely answer in training, so that a model that only knows what is usual is always wrong.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.scenes import COLOURS, SHAPES, Object, draw

TYPES = ("colour", "shape", "count", "relate", "compare")
WORDS = ("dax", "wug", "blicket", "toma", "fep", "zorp", "kiki", "lum")
CORNERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))
COUNTS = ("one", "two", "three")
Scene = list[Object]


@dataclass(frozen=True)
class Looks:
    """What pictures and questions are made: `documents` of the training split, a tenth of it for each of the others."""

    kind: Literal["questions", "pairs", "names", "words"] = "questions"
    documents: int = 8000
    seed: int = 0
    side: int = 32
    colours: int = 4
    shapes: int = 3
    held_out: float = 0.0               # of the pairs of colour and shape, at least one: for the test split
    shots: int = 8                      # names and words
    words: int = 4                      # of them: how many colours of a row have a name

    def __post_init__(self) -> None:
        if not (16 <= self.side <= 1024 and 3 <= self.colours <= len(COLOURS) and 2 <= self.shapes <= len(SHAPES)
                and 0 <= self.held_out <= 0.4 and self.shots >= 0 and 2 <= self.words <= self.colours):
            raise RequestError("toy:looks has a side of 16 to 1024 pixels, 3 to 8 colours, 2 to 6 shapes, at most 0.4 "
                               f"of their pairs held out and 2 words or more, as many as colours at most, not {self}")

    def pairs(self) -> tuple[list[str], list[str]]:
        """Names of the colours and shapes that are used."""
        return list(COLOURS)[:self.colours], list(SHAPES)[:self.shapes]

    def unseen(self) -> set[tuple[str, str]]:
        """The pairs of colour and shape that training never shows."""
        every = [(c, s) for c in self.pairs()[0] for s in self.pairs()[1]]
        order = np.random.default_rng(seed_of("looks", self.seed, "held out")).permutation(len(every))
        return {every[i] for i in order[:max(1, round(self.held_out * len(every))) if self.held_out else 0]}

    def scene(self, rng: np.random.Generator, count: int, test: bool) -> Scene:
        """So many shapes, each of a colour and a shape of its own, in corners of their own; a test's first is new."""
        colours, shapes = self.pairs()
        while True:
            chosen = rng.permutation(self.colours)[:count], [int(i) for i in (
                rng.permutation(self.shapes) if count <= self.shapes else rng.integers(0, self.shapes, count))[:count]]
            names = [(colours[c], shapes[s]) for c, s in zip(*chosen, strict=True)]
            new = [name in self.unseen() for name in names]
            if (new[0] if test else not any(new)):
                break
        at = rng.permutation(4)[:count]
        radii = rng.permutation([0.12, 0.17, 0.22])[:count]
        places = [tuple(float(v + rng.uniform(-0.03, 0.03)) for v in CORNERS[corner]) for corner in at]
        return [Object(c, s, x, y, float(r)) for (c, s), (x, y), r in zip(names, places, radii, strict=True)]

    def asked(self, rng: np.random.Generator, test: bool) -> tuple[Scene, str, str, str]:
        """A scene, a question about it, its answer and its type."""
        kind = TYPES[rng.integers(len(TYPES))]
        count = int(rng.integers(1, 4)) if kind == "count" else int(rng.integers(2, 4))
        count = min(count, self.shapes)
        scene = self.scene(rng, count, test)
        first, second = scene[0], scene[-1]
        if kind == "colour":
            return scene, f"what colour is the {first.shape}?", first.colour, kind
        if kind == "shape":
            return scene, f"what shape is {first.colour}?", first.shape, kind
        if kind == "count":
            return scene, "how many shapes are there?", COUNTS[count - 1], kind
        yes = rng.random() < 0.5
        if kind == "relate":
            while abs(first.x - second.x) < 0.2:
                scene = self.scene(rng, count, test)
                first, second = scene[0], scene[-1]
            a, b = (first, second) if (first.x < second.x) == yes else (second, first)
            return scene, f"is the {a.shape} left of the {b.shape}?", "yes" if yes else "no", kind
        a, b = (first, second) if (first.radius > second.radius) == yes else (second, first)
        return scene, f"is the {a.shape} larger than the {b.shape}?", "yes" if yes else "no", kind

    def row(self, split: str, number: int) -> tuple[list[Scene], Row]:
        """The pictures and the words of one row."""
        rng, test = np.random.default_rng(seed_of("looks", repr(self), split, number)), split == "test"
        test = test and bool(self.unseen())
        if self.kind == "questions":
            scene, question, answer, kind = self.asked(rng, test)
            return [scene], {"input": question, "target": answer, "label": kind}
        if self.kind == "pairs":
            counts = rng.permutation(min(3, self.shapes))[:2] + 1
            scenes = [self.scene(rng, int(count), test) for count in counts]
            answer = "first" if counts[0] > counts[1] else "second"
            return scenes, {"input": "which has more shapes?", "target": answer, "label": "pairs"}
        colours = rng.permutation(self.colours)[:self.words]
        words = [f" {WORDS[i]}" for i in rng.permutation(len(WORDS))[:self.words]]
        which = rng.integers(0, self.words, self.shots + 1)
        named = [words[i] for i in which]
        if self.kind == "words":
            shown = [self.pairs()[0][colours[i]] for i in which]
            shots = [list(pair) for pair in zip(shown[:-1], named[:-1], strict=True)]
            text = "".join(f"{a}{b}\n" for a, b in zip(shown, named, strict=True))
            return [], {"shots": shots, "input": shown[-1], "target": named[-1], "text": text}
        scenes = [self.one(rng, int(colours[i]), test) for i in which]
        return scenes, {"shots": [["", word] for word in named[:-1]], "input": "", "target": named[-1],
                        "label": "names"}

    def one(self, rng: np.random.Generator, colour: int, test: bool) -> Scene:
        """A picture of one shape of a colour; a test's is a new pair where the colour has one."""
        colours, shapes = self.pairs()
        new = [s for s in shapes if (colours[colour], s) in self.unseen()]
        old = [s for s in shapes if s not in new]
        some = new if test and new else old or shapes
        radius = rng.uniform(0.2, 0.35)
        x, y = rng.uniform(radius, 1 - radius, 2)
        return [Object(colours[colour], some[rng.integers(len(some))], float(x), float(y), float(radius))]


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Looks, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            scenes, row = kind.row(split, number)
            names = [f"{split}-{number:06}-{n}.png" for n in range(len(scenes))]
            for name, scene in zip(names, scenes, strict=True):
                (folder / name).write_bytes(encode(draw(scene, kind.side)[0]))
            yield {**({"images": names} if names else {}), **row}

    return made(out, "toy pictures", LICENCE, rows)
