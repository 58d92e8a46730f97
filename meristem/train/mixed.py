"""A run on a mixture of sources (data/mixture.py): its batches, and what its log says of each source at every step.

| fact of a line of log.jsonl | says |
| --- | --- |
| mixture | the share of each source in the targets trained on so far |
| source_tokens | targets trained on so far by source; their sum is `tokens` |
| bits_per_byte | on held-out text by source; at validations and at the last step |
"""
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.loader import sweep
from meristem.data.mixture import Mixture, Sources, tokens_of, weights_of
from meristem.data.shards import Shards, Split
from meristem.objectives.base import Objective
from meristem.train import hooks
from meristem.train.processes import One
from meristem.train.trainer import Facts, Hook, Trainer

HELD_OUT = 1 << 15                      # tokens of each source that a validation looks at, at most


class Built(Protocol):
    """What of an assembled run is asked here."""

    run: Run
    corpus: Corpus
    shards: Shards
    objective: Objective
    processes: One


def source(run: Run, corpus: Corpus, shards: Shards, split: str) -> Mixture:
    """The batches of a run with `data.mixture`; RequestError for one that does not read packed documents."""
    assert run.data.mixture is not None
    if run.data.examples:
        raise RequestError(f"data.mixture mixes packed documents, and data.examples={run.data.examples} makes rows of "
                           "its own; leave one of them out")
    tokens, t = shards.split(split), run.train
    sources = Sources.open(corpus, tokens, _by(run))
    weights = weights_of(run.data.mixture, sources, tokens_of(tokens, sources))
    return Mixture(tokens, sources, weights, t.context, (t.batch, seed_of(run.seed, "order", split), t.micro))


def hooks_of(parts: Built, folder: Path) -> list[Hook]:
    """What adds the facts above; [] for a run without a mixture. RequestError when a run that goes on has another."""
    if not parts.run.data.mixture:
        return []
    mixture = source(parts.run, parts.corpus, parts.shards, "train")
    before = [line["mixture"] for line in hooks.read_log(folder / "log.jsonl")[-1:] if "mixture" in line]
    if before and before[0] != mixture.fractions:
        raise RequestError(f"the mixture of {folder} was {before[0]} and would now be {mixture.fractions}; what it was "
                           "learned from has changed: choose another --out, or add --fresh")
    targets = parts.run.train.batch * parts.run.train.context

    def told(trainer: Trainer, facts: Facts) -> None:
        facts["mixture"] = mixture.fractions
        facts["source_tokens"] = {name: trainer.tokens // targets * count for name, count in mixture.share.items()}
    return [told, hooks.every(parts.run.train.validate_every, "bits_per_byte",
                               lambda asked: bits_per_byte(parts, asked))]


def bits_per_byte(parts: Built, asked: Sequence[int] | None = None) -> dict[str, float]:
    """Bits a byte of held-out text by source, for every source that the validation split has."""
    split = parts.shards.split("validation")
    sources, t = Sources.open(parts.corpus, split, _by(parts.run)), parts.run.train
    out = {}
    for number, name in enumerate(sources.names):
        part = only(split, np.flatnonzero(sources.of == number), sources.bytes)
        if len(part.tokens) > 1:
            batches: list[Batch] = list(sweep(part, t.context, t.micro or t.batch, HELD_OUT))
            nats = hooks.validate(parts.objective, batches, parts.processes, asked)
            out[name] = nats * len(part.tokens) / part.bytes / math.log(2)
    return out


def only(split: Split, documents: np.ndarray, sizes: np.ndarray) -> Split:
    """The documents of a split with some numbers, as a split of their own."""
    found = [split.document(int(n)) for n in documents]
    lengths = np.array(list(map(len, found)), dtype=np.int64)
    tokens = np.concatenate(found) if found else split.tokens[:0]
    return Split(split.name, tokens, np.cumsum(lengths) - lengths, [split.ids[int(n)] for n in documents],
                 int(sizes[documents].sum()), split.end)


def _by(run: Run) -> str:
    by = run.data.mixture.fields.get("by", "path") if run.data.mixture else "path"
    if not isinstance(by, str) or not by.isidentifier():
        raise RequestError(f"data.mixture.by is {by!r}; it is the name of a fact: path, kind, licence, language, "
                           "domain")
    return by
