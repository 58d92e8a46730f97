"""Batches of pictures with the masks of some of their objects, named by `run.data.examples=segments`.

Rows have an image, a label map under `masks` and maybe `objects`, each the regions of the map that it consists of;
without them every number of the map from 1 is an object of its own. A picture's objects that a step asks for, and which
of the eight turns and mirrors of the square it is shown in, are functions of (seed, step, row).

    source = Segments.of(corpus, "train", side=64, channels=3, order=(16, seed, 0))
    source(0)[0]["masks"]                                      # bool [16, 4, 64, 64]
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt16

from meristem.codecs.image import regions
from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.core.types import Batch, Document
from meristem.corpus.pictures import Tar
from meristem.corpus.store import SPLITS, Corpus
from meristem.data.loader import Order
from meristem.data.pictures import stored

ENTRY = "segments"
ASKED = 4                               # objects of each picture that a step asks for
LEAST = 8                               # pixels at the model's side; smaller objects are not asked for


@dataclass(frozen=True)
class Mapped:
    """The pictures of a split that have a label map: pixels, maps, and the objects of each as (name, regions)."""

    pixels: np.ndarray                  # uint8 [N, C, H, W], memory-mapped
    maps: np.ndarray                    # uint16 [N, H, W], memory-mapped
    objects: list[list[tuple[str, list[int]]]]
    ids: list[str]
    images: list[str]                   # names in the tar

    @classmethod
    def of(cls, corpus: Corpus, split: str, side: int, channels: int, progress: Progress = SILENT) -> "Mapped":
        """Objects that have at least LEAST pixels at this side; RequestError for a split without label maps."""
        pictured = [d for d in corpus.documents(split) if "image" in d.fields]
        where = [n for n, d in enumerate(pictured) if "masks" in d.fields]
        if not where:
            raise RequestError(f"the {split} split of {corpus.folder} has no label maps; give rows with \"image\" and "
                               '"masks", a folder with a.masks.png beside a.png, or toy:objects')
        maps = stored_maps(corpus, side, progress)[split]
        documents = [pictured[n] for n in where]
        objects = [[(name, which) for name, which in objects_of(d, maps[n])
                    if np.isin(maps[n], which).sum() >= LEAST] for n, d in enumerate(documents)]
        pixels = stored(corpus, side, channels, progress)[split]
        return cls(pixels if len(where) == len(pictured) else pixels[where], maps, objects, [d.id for d in documents],
                   [d.fields["image"] for d in documents])

    def mask(self, picture: int, which: int) -> Bool[np.ndarray, "H W"]:
        """Where one object of a picture is visible."""
        return np.isin(self.maps[picture], self.objects[picture][which][1])


@dataclass(frozen=True)
class Segments:
    """A source for `Trainer`: pictures with ASKED of their objects each, shuffled anew each epoch."""

    data: Mapped
    rows: np.ndarray                    # the pictures that have an object
    seed: int
    order: Order

    @classmethod
    def of(cls, corpus: Corpus, split: str, side: int, channels: int, order: tuple[int, int, int],
           progress: Progress = SILENT) -> "Segments":
        """The pictures of a split at `side` x `side`; `order` is (batch, seed, micro)."""
        data = Mapped.of(corpus, split, side, channels, progress)
        rows = np.array([n for n, objects in enumerate(data.objects) if objects], dtype=np.int64)
        if not len(rows):
            raise RequestError(f"no object in the {split} split of {corpus.folder} has {LEAST} pixels at a side of "
                               f"{side}; raise model.image")
        batch, seed, micro = order
        return cls(data, rows, seed, Order(len(rows), batch, seed, micro))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows, [np.random.default_rng(seed_of(self.seed, "objects", step, int(row))) for row in rows])
                for rows in self.order(step)]

    def batch(self, which: np.ndarray, draws: Sequence[np.random.Generator] = ()) -> Batch:
        """Rows by number: images [B, C, H, W], masks [B, ASKED, H, W]; without draws the first objects, unturned."""
        images, masks = [], []
        for n, row in enumerate(self.rows[which]):
            count, turn = len(self.data.objects[row]), 0
            if draws:
                chosen = draws[n].integers(count, size=ASKED)
                turn = int(draws[n].integers(8))
            else:
                chosen = np.arange(ASKED) % count
            images.append(turned(np.asarray(self.data.pixels[row]), turn))
            masks.append(turned(np.stack([self.data.mask(row, int(one)) for one in chosen]), turn))
        return {"images": torch.from_numpy(np.stack(images)), "masks": torch.from_numpy(np.stack(masks)),
                "weight": torch.ones(len(which))}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` rows in order, `rows` at a time; the last batch may be smaller."""
        count = min(limit, len(self.rows))
        return (self.batch(np.arange(start, min(start + rows, count))) for start in range(0, count, rows))


def turned(x: np.ndarray, turn: int) -> np.ndarray:
    """[..., H, W] in one of the eight turns and mirrors of the square."""
    x = np.rot90(x, turn % 4, (-2, -1))
    return np.ascontiguousarray(x[..., ::-1] if turn >= 4 else x)


def objects_of(document: Document, regions: UInt16[np.ndarray, "H W"]) -> list[tuple[str, list[int]]]:
    """Name and regions of each object of a row that has regions; by default one a number of the map, unnamed."""
    if "objects" in document.fields:
        return [(one.get("name", ""), one["regions"]) for one in document.fields["objects"] if "regions" in one]
    return [("", [int(number)]) for number in np.unique(regions) if number]


def stored_maps(corpus: Corpus, side: int, progress: Progress = SILENT) -> dict[str, np.ndarray]:
    """Every split's label maps [N, side, side] in the order of its documents, decoded when they are first asked for."""
    folder = corpus.folder / "pixels" / f"{side}-masks"
    if not folder.is_dir():
        with files.committed(folder) as made:
            for split in SPLITS:
                documents = [d for d in corpus.documents(split) if "masks" in d.fields]
                if not documents:
                    continue
                progress.stage(f"masks of {split}", len(documents))
                tar = Tar(corpus.folder / f"{split}.tar")
                with open(made / f"{split}.bin", "wb") as f:
                    for number, document in enumerate(documents):
                        f.write(regions(tar[document.fields["masks"]], side, document.source).tobytes())
                        progress.update(number + 1)
    if trouble := files.verify(folder):
        raise MachineError(f"the masks in {folder} cannot be trusted: {trouble}; remove that folder, it is made again")
    return {file.stem: np.memmap(file, dtype=np.uint16, mode="r").reshape(-1, side, side)
            for file in sorted(folder.glob("*.bin"))}
