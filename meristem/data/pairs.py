"""Pairs of source and target for encoder-decoders: several in a row, none cut, none seeing another.

    meristem pretrain t5 data.corpus=PAIRS.jsonl data.examples=pairs objective.name=seq2seq

A line of the file is {"input": ..., "target": ...}; `corpus.labelled` splits and checks them. A row holds whole pairs:
their sources, each with the end token, side by side; their targets, each behind one place for the model's start token
and before the end token. `source_segments` and `segments` number the pairs, and a pair only ever sees itself. Padding
of the source is numbered -1; padding of the target belongs to the row's last pair and has no weight.
"""
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.loader import Order

ENTRY = "pairs"                         # in run.data.examples
Ids = np.ndarray


def texts(corpus: Corpus, split: str) -> list[tuple[str, str]]:
    """(source, target) of every row of a split, in the corpus's order; RequestError when its rows are no pairs."""
    found = [(d.fields["input"], d.fields["target"]) for d in corpus.documents(split) if "target" in d.fields]
    if not found:
        raise RequestError(f"{corpus.folder} has no pairs; make a file of lines with input and target and give it as "
                           "data.corpus=PAIRS.jsonl")
    return found


class Pairs:
    """A source for `Trainer`: rows of whole pairs. Those longer than a row are left out and counted in `skipped`."""

    def __init__(self, pairs: Sequence[tuple[str, str]], codec: Codec, context: int, batch: int, seed: int, *,
                 micro: int = 0) -> None:
        sources = codec.encode_batch([source for source, _ in pairs])
        targets = codec.encode_batch([target for _, target in pairs])
        fit = [(s, t) for s, t in zip(sources, targets, strict=True) if max(len(s), len(t)) < context]
        self.skipped = len(pairs) - len(fit)
        if not fit:
            raise RequestError(f"none of {len(pairs)} pairs fits {context} tokens; raise train.context")
        self.rows = _rows(fit, codec.end, context, seed)
        self.order = Order(len(self.rows["tokens"]), batch, seed, micro)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update; the fields are those of `objectives.seq2seq`."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number."""
        fields = {key: torch.from_numpy(rows[which].astype(np.int64)) for key, rows in self.rows.items()}
        return {**fields, "weight": fields["weight"].float()}

    def held_out(self, batch: int, limit: int) -> Iterator[Batch]:
        """The rows in order, each once, at most about `limit` target tokens, taken evenly."""
        count = len(self.rows["tokens"])
        keep = max(1, min(count, limit // self.rows["tokens"].shape[1]))
        which = np.unique(np.linspace(0, count - 1, keep).round().astype(np.int64))
        for start in range(0, len(which), batch):
            yield self.batch(which[start: start + batch])


def _rows(pairs: list[tuple[Ids, Ids]], end: int, context: int, seed: int) -> dict[str, np.ndarray]:
    """All rows, pairs shuffled, next fit; as wide as the fullest row needs."""
    rows: list[list[tuple[Ids, Ids]]] = []
    room = (0, 0)
    for index in np.random.default_rng(seed_of(seed, "pack")).permutation(len(pairs)):
        source, target = pairs[index]
        need = (len(source) + 1, len(target) + 2)
        if need[0] > room[0] or need[1] > room[1]:
            rows.append([])
            room = (context, context + 1)
        rows[-1].append(pairs[index])
        room = (room[0] - need[0], room[1] - need[1])
    wide = max(sum(len(s) + 1 for s, _ in row) for row in rows)
    long = max(sum(len(t) + 2 for _, t in row) for row in rows)
    out: dict[str, np.ndarray] = {
        "source": np.full((len(rows), wide), end, dtype=np.int32),
        "source_segments": np.full((len(rows), wide), -1, dtype=np.int16),
        "tokens": np.full((len(rows), long), end, dtype=np.int32),
        "segments": np.empty((len(rows), long - 1), dtype=np.int16),
        "weight": np.zeros((len(rows), long - 1), dtype=bool)}
    for r, row in enumerate(rows):
        read = written = 0
        for number, (source, target) in enumerate(row):
            out["source"][r, read: read + len(source)] = source
            out["source_segments"][r, read: read + len(source) + 1] = number
            out["tokens"][r, written + 1: written + 1 + len(target)] = target
            out["weight"][r, written: written + len(target) + 1] = True        # the end token too
            out["segments"][r, written:] = number
            read, written = read + len(source) + 1, written + len(target) + 2
    return out
