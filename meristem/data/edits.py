"""Pictures before and after an edit, with the sentence that asks for it; named by `run.data.examples=edits`.

    meristem curate toy:edits documents=6000 side=16 --out runs/edits

Brooks et al. 2022, https://arxiv.org/abs/2211.09800, section 3.1, made pairs with a language model and an image model;
here the same scene (data.scenes, one shape) is drawn twice, so what an edit must leave alone is known to the pixel. A
row's `image` is the picture after the edit, `images` the one before it, its caption the instruction, its label what the
edited picture shows. What comes out in the test split are pairs of colour and shape that come out nowhere else.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from meristem.codecs.base import Codec
from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.core.types import Batch
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data.pictures import Pictures, stored
from meristem.data.scenes import COLOURS, SHAPES, Object, Scenes, draw

ENTRY = "edits"
DAY, NIGHT = (244, 242, 236), (22, 26, 54)
KINDS = ("colour", "shape", "light")
Pixels = UInt8[np.ndarray, "3 S S"]


@dataclass(frozen=True)
class Source:
    """Batches of `Pictures` with the pictures before the edit as `before`, uint8 [B, C, H, W]."""

    after: Pictures
    before: np.ndarray                  # uint8 [N, C, H, W], memory-mapped

    @classmethod
    def of(cls, corpus: Corpus, codec: Codec, split: str, side: int, channels: int, context: int,
           order: tuple[int, int, int], progress: Progress = SILENT) -> "Source":
        """The pairs of a split; RequestError for rows that are none."""
        documents = [d for d in corpus.documents(split) if "image" in d.fields]
        if not documents or any(len(d.fields.get("images", ())) != 1 for d in documents):
            raise RequestError(f'the {split} split of {corpus.folder} has no pairs; give rows with "image", the '
                               'picture after the edit, and "images", a list of the one before it, or toy:edits')
        after = Pictures.of(corpus, codec, split, side, channels, context, order, progress)
        return cls(after, stored(corpus, side, channels, progress, several=True)[split])

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows) for rows in self.after.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number."""
        return {**self.after.batch(which), "before": torch.from_numpy(self.before[which])}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` rows in order, `rows` at a time; the last batch may be smaller."""
        count = min(limit, len(self.before))
        return (self.batch(np.arange(start, min(start + rows, count))) for start in range(0, count, rows))


@dataclass(frozen=True)
class Edits:
    """What pairs are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 6000
    seed: int = 0
    side: int = 16
    held_out: float = 0.125             # of the pairs of colour and shape, that come out in the test split alone

    def edit(self, split: str, number: int) -> tuple[Pixels, Pixels, str, Object]:
        """(before, after, instruction, the object after)."""
        kind = Scenes(documents=self.documents, seed=self.seed, side=self.side, objects=1, held_out=self.held_out)
        objects, _ = kind.scene(split, number)
        rng = np.random.default_rng(seed_of("edits", self.seed, split, number))
        now, what = objects[0], KINDS[rng.integers(len(KINDS))]
        ground = (DAY, NIGHT)[rng.integers(2)]
        if what == "light":
            other, said = (NIGHT, "make it night") if ground == DAY else (DAY, "make it day")
            return draw([now], self.side, ground)[0], draw([now], self.side, other)[0], said, now
        if what == "colour":
            was = replace(now, colour=[c for c in COLOURS if c != now.colour][rng.integers(len(COLOURS) - 1)])
            said = f"make the {now.shape} {now.colour}"
        else:
            was = replace(now, shape=[s for s in SHAPES if s != now.shape][rng.integers(len(SHAPES) - 1)])
            said = f"turn the {was.shape} into a {now.shape}"
        return draw([was], self.side, ground)[0], draw([now], self.side, ground)[0], said, now


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Edits, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            before, after, said, now = kind.edit(split, number)
            name = f"{split}-{number:06}"
            (folder / f"{name}.before.png").write_bytes(encode(before))
            (folder / f"{name}.png").write_bytes(encode(after))
            yield {"image": f"{name}.png", "images": [f"{name}.before.png"], "text": said, "label": now.name}

    return made(out, "toy pictures", LICENCE, rows)
