"""Batches of pictures with their captions and labels, named by `run.data.examples=pictures`.

Every picture of a split is decoded once at the side that the model wants and kept as bytes in a memory-mapped file
beside the corpus (`pixels/<side>-<channels>/`, checksummed); a step's rows are a function of (seed, step). Captions are
cut to the context and closed by the end token; what follows is padding, a segment of its own.

    source = Pictures.of(corpus, codec, "train", side=32, channels=3, context=24, order=(64, seed, 0))
    source(0)[0]["images"]                                     # uint8 [64, 3, 32, 32]
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from meristem.codecs.base import Codec
from meristem.codecs.image import decode
from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.types import Batch, Document
from meristem.corpus.pictures import Tar
from meristem.corpus.store import SPLITS, Corpus
from meristem.data.loader import Order

ENTRY = "pictures"


@dataclass(frozen=True)
class Pictures:
    """A source for `Trainer`: rows of one split, shuffled anew each epoch."""

    pixels: np.ndarray                  # uint8 [N, C, H, W], memory-mapped
    tokens: np.ndarray                  # int32 [N, T+1]
    lengths: np.ndarray                 # of each caption with its end token
    labels: np.ndarray | None           # int64 [N]
    order: Order

    @classmethod
    def of(cls, corpus: Corpus, codec: Codec, split: str, side: int, channels: int, context: int,
           order: tuple[int, int, int], progress: Progress = SILENT) -> "Pictures":
        """The pictures of a split at `side` x `side`; `order` is (batch, seed, micro)."""
        documents = [d for d in corpus.documents(split) if "image" in d.fields]
        if not documents:
            raise RequestError(f"the {split} split of {corpus.folder} has no pictures; give a folder of pictures, or "
                               'rows with an "image"')
        names = {name: number for number, name in enumerate(corpus.summary.get("labels", []))}
        labels = None
        if all("label" in d.fields for d in documents):
            labels = np.array([names[d.fields["label"]] for d in documents])
        tokens, lengths = captions(codec, [d.text for d in documents], context)
        pixels = stored(corpus, side, channels, progress)[split]
        batch, seed, micro = order
        return cls(pixels, tokens, lengths, labels, Order(len(documents), batch, seed, micro))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number: images [B, C, H, W], tokens [B, T+1], segments [B, T], and labels [B] where all have one."""
        tokens = torch.from_numpy(self.tokens[which].astype(np.int64))
        padding = np.arange(tokens.shape[1] - 1) >= self.lengths[which][:, None]
        labels = {} if self.labels is None else {"labels": torch.from_numpy(self.labels[which])}
        return {"images": torch.from_numpy(self.pixels[which]), "tokens": tokens,
                "segments": torch.from_numpy(padding.astype(np.int64)), "weight": torch.ones(len(which)), **labels}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` rows in order, `rows` at a time; the last batch may be smaller."""
        count = min(limit, len(self.pixels))
        return (self.batch(np.arange(start, min(start + rows, count))) for start in range(0, count, rows))


def captions(codec: Codec, texts: Sequence[str], context: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts as rows of tokens, int32 [N, context + 1], and the length of each [N].

    The codec's begin token, where it has one, the text, cut to fit, and the end token; the rest is padding.
    """
    first = [codec.marks["begin"]] if "begin" in codec.marks else []
    tokens = np.full((len(texts), context + 1), codec.marks.get("pad", codec.end), dtype=np.int32)
    lengths = np.zeros(len(texts), dtype=np.int64)
    for row, ids in enumerate(codec.encode_batch(list(texts))):
        ids = np.concatenate([first, ids[:context - 1 - len(first)], [codec.end]])
        tokens[row, :len(ids)], lengths[row] = ids, len(ids)
    return tokens, lengths


def names_of(document: Document) -> list[str]:
    """The names of a document's pictures in the tar, in their order."""
    return document.fields.get("images") or [document.fields[key] for key in ("image",) if key in document.fields]


def stored(corpus: Corpus, side: int, channels: int, progress: Progress = SILENT,
           several: bool = False) -> dict[str, np.ndarray]:
    """Every split's pixels [N, C, side, side], decoded when they are first asked for; MachineError when damaged.

    With `several`, all pictures of each document one after another; else those of documents with one.
    """
    folder = corpus.folder / "pixels" / f"{side}-{channels}{'-several' * several}"
    if not folder.is_dir():
        with files.committed(folder) as made:
            for split in SPLITS:
                named = [(name, d.source) for d in corpus.documents(split) if several or "image" in d.fields
                         for name in (names_of(d) if several else [d.fields["image"]])]
                if not named:
                    continue
                progress.stage(f"pictures of {split}", len(named))
                tar = Tar(corpus.folder / f"{split}.tar")
                with open(made / f"{split}.bin", "wb") as f:
                    for number, (name, source) in enumerate(named):
                        f.write(decode(tar[name], side, channels, source).tobytes())
                        progress.update(number + 1)
    if trouble := files.verify(folder):
        raise MachineError(f"the pixels in {folder} cannot be trusted: {trouble}; remove that folder, it is made again")
    return {file.stem: np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, channels, side, side)
            for file in sorted(folder.glob("*.bin"))}
