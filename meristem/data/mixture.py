"""Mixture weights: how much of each source a run reads, changed in a moment because nothing is tokenised again.

    meristem pretrain llama data.corpus=CORPUS data.mixture.name=fixed data.mixture.by=kind \\
        data.mixture.weights='{"code": 0.7, "prose": 0.3}' --out runs/mixed

| name | fields | the weights are |
| --- | --- | --- |
| fixed | weights | as given, divided by their sum; a source that is not named is not read |
| temperature | temperature | sizes to the power 1 / temperature (Conneau et al. 2020, section 3.1) |
| learned | runs | those that a law fitted to small runs thinks best (data/mixing_law.py) |

`by` names what makes a source: a fact of every document in the ledger (kind, licence, language, domain, ...), or
`path`, the folder or file that was named to curate. Every step has the same number of targets of each source, the
request rounded to whole ones, so at any stop the achieved fractions are off by less than 1 / (batch x context). Rows
are windows of one source, but for the few that are shared by the fractions of a row. An epoch of a source shows each of
its windows once, in an order that (seed, epoch, source) names; what a step reads is a function of its number alone.
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from meristem.core import files
from meristem.core.config import Part
from meristem.core.errors import MachineError, RequestError, nearest
from meristem.core.random import permute, seed_of
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data import mixing_law
from meristem.data.loader import batch_of
from meristem.data.shards import Split

NAMES = ("fixed", "temperature", "learned")
FOLDER, INDEX = "sources", "sources.json"


@dataclass(frozen=True)
class Sources:
    """Which source each document of a split is of, int32 [D], and its bytes of text, int64 [D]."""

    names: tuple[str, ...]
    of: np.ndarray
    bytes: np.ndarray

    @classmethod
    def open(cls, corpus: Corpus, split: Split, by: str) -> "Sources":
        """From CORPUS/sources/BY, made by one pass over the split's documents the first time."""
        folder = corpus.folder / FOLDER / f"{by}-{split.name}"
        if not (folder / INDEX).is_file() or files.verify(folder) or files.read_json(folder / INDEX)[
                "corpus"] != corpus.hash:
            _write(corpus, split.name, by, folder)
        found = cls(tuple(files.read_json(folder / INDEX)["names"]), np.fromfile(folder / "of", "<i4"),
                    np.fromfile(folder / "bytes", "<i8"))
        if len(found.of) != len(split.starts):
            raise MachineError(f"{folder} and the token shards differ in their documents; remove {folder}")
        return found


class Stream:
    """The documents of one source of a split, run on with the end token between them; nothing is copied."""

    def __init__(self, split: Split, documents: Int64[np.ndarray, "D"]) -> None:
        self.split, self.starts = split, split.starts[documents]
        stops = np.append(split.starts[1:], len(split.tokens))[documents]
        self.ends = np.cumsum(stops - self.starts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Tokens by their place in the stream, any shape, int64."""
        document = np.searchsorted(self.ends, places, "right")
        first = np.concatenate([[0], self.ends[:-1]])[document]
        return self.split.tokens[self.starts[document] + places - first].astype(np.int64)


class Mixture:
    """A source for `Trainer`: `mixture(step)` are the micro-batches of one update, rows [T + 1] of the asked mixture.

    `share` is targets a step by source: their sum is batch x context.
    """

    def __init__(self, split: Split, sources: Sources, weights: Mapping[str, float], context: int,
                 order: tuple[int, int, int]) -> None:
        self.context, (self.batch, self.seed, self.micro) = context, order
        names = [name for name in sources.names if weights.get(name, 0.0) > 0]
        self.share = dict(zip(names, rounded(np.array([weights[n] for n in names]), self.batch * context), strict=True))
        self.streams = {name: Stream(split, np.flatnonzero(sources.of == sources.names.index(name))) for name in names}
        for name, stream in self.streams.items():
            if len(stream) <= context:
                raise RequestError(f"the source {name} has {len(stream)} tokens, too few for a context of {context}; "
                                   "give it no weight, or lower train.context")

    @property
    def fractions(self) -> dict[str, float]:
        """Of the targets, by source: the same at every step, and so of any number of them."""
        return {name: count / (self.batch * self.context) for name, count in self.share.items()}

    def __call__(self, step: int) -> list[Batch]:
        """The rows of `step` (from 0): whole windows of each source, then the rows that sources share."""
        rows: list[np.ndarray] = []
        pieces: list[np.ndarray] = []
        last: list[np.ndarray] = []
        for name, count in self.share.items():
            whole, rest = divmod(count, self.context)
            # windows begun before this step; of those in shared rows, rounded up
            begun = step * whole - (-step * rest // self.context)
            rows.append(self._window(name, begun + np.arange(whole))[:, None] * self.context
                        + np.arange(self.context + 1))
            rows[-1] = self.streams[name][rows[-1]]
            if rest:
                before, targets = self._shared(name, whole, rest, step)
                pieces.append(targets)
                last = last or [before]
        if pieces:
            targets = np.concatenate(pieces)
            inputs = np.concatenate([last[0], targets])
            rows.append(inputs[np.arange(0, len(targets), self.context)[:, None] + np.arange(self.context + 1)])
        table = np.concatenate(rows)
        size = self.micro or self.batch
        return [batch_of(table[i: i + size]) for i in range(0, self.batch, size)]

    def _window(self, name: str, number: np.ndarray) -> np.ndarray:
        """Which window of a source is its `number`-th to be read: whole epochs, each in an order of its own."""
        n = (len(self.streams[name]) - 1) // self.context
        out = np.empty_like(number)
        for epoch in np.unique(number // n).tolist():
            here = number // n == epoch
            out[here] = permute(number[here] % n, n, seed_of(self.seed, "mixture", name, epoch))
        return out

    def _shared(self, name: str, whole: int, rest: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(the token before, the targets) that a source has in the shared rows of a step.

        Its j-th window of that kind is begun by the first step that reaches target j x context of them.
        """
        at = np.arange(step * rest, (step + 1) * rest)
        j, offset = at // self.context, at % self.context
        begun = j * self.context // rest                       # the step that begins it, after its whole windows
        number = begun * whole - (-begun * rest // self.context) + whole
        places = self._window(name, number) * self.context + offset
        return self.streams[name][places[:1]], self.streams[name][places + 1]


def weights_of(part: Part, sources: Sources, sizes: Mapping[str, int]) -> dict[str, float]:
    """The weights that a `Part` asks for, summing to 1; `sizes` are the tokens of each source. RequestError: what is
    wrong with them."""
    fields = {key: value for key, value in part.fields.items() if key != "by"}
    needed = {"fixed": "weights", "temperature": "temperature", "learned": "runs"}.get(part.name)
    if needed is None:
        raise RequestError(f"data.mixture.name is {part.name!r}; {nearest(part.name, NAMES)}")
    if set(fields) != {needed}:
        raise RequestError(f"data.mixture.name={part.name} has the fields by and {needed}, not "
                           f"{', '.join(sorted(fields)) or 'by alone'}")
    value = fields[needed]
    if part.name == "temperature":
        if not isinstance(value, int | float) or value <= 0:
            raise RequestError(f"data.mixture.temperature is {value!r}; it is a number above 0 (1: as much as "
                               "there is)")
        raw = {name: sizes[name] ** (1 / value) if sizes[name] else 0.0 for name in sources.names}
    elif part.name == "learned":
        raw = mixing_law.best([Path(str(run)).expanduser() for run in value] if isinstance(value, list | tuple) else [])
    else:
        raw = dict(value) if isinstance(value, Mapping) else {}
    for name, weight in raw.items():
        if name not in sources.names:
            raise RequestError(f"data.mixture names the source {name!r}; {nearest(str(name), sources.names)}")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise RequestError(f"the weight of {name} is {weight!r}; it is a number from 0 on")
    total = sum(raw.values())
    if not total > 0:
        raise RequestError("data.mixture has no weight above 0; sources are " + ", ".join(sources.names))
    return {name: weight / total for name, weight in raw.items()}


def tokens_of(split: Split, sources: Sources) -> dict[str, int]:
    """Tokens of each source in a split."""
    lengths = np.diff(np.append(split.starts, len(split.tokens)))
    counts = np.bincount(sources.of, lengths, len(sources.names)).astype(np.int64)
    return dict(zip(sources.names, counts.tolist(), strict=True))


def rounded(weights: np.ndarray, total: int) -> list[int]:
    """Whole numbers that sum to `total`, each less than 1 from its share: the largest remainders are rounded up."""
    exact = weights / weights.sum() * total
    out = np.floor(exact).astype(np.int64)
    out[np.argsort(out - exact, kind="stable")[: total - int(out.sum())]] += 1
    return out.tolist()


def _write(corpus: Corpus, split: str, by: str, folder: Path) -> None:
    numbers: dict[str, int] = {}
    of: list[int] = []
    sizes: list[int] = []
    with open(corpus.folder / f"{split}.jsonl", encoding="utf-8") as f:
        for line in f:
            row: dict[str, Any] = json.loads(line)
            name = row["path"].partition("/")[0].partition("#")[0] if by == "path" else row.get(by)
            if name is None:
                there: Sequence[str] = [key for key, value in row.items() if isinstance(value, str)
                                        and key not in ("text", "id")]
                raise RequestError(f"{row['path']} has no {by}, so data.mixture.by={by} tells no sources apart; it has "
                                   f"{', '.join(there)}")
            of.append(numbers.setdefault(str(name), len(numbers)))
            sizes.append(len(row["text"].encode()))
    with files.committed(folder) as tmp:
        np.array(of, dtype="<i4").tofile(tmp / "of")
        np.array(sizes, dtype="<i8").tofile(tmp / "bytes")
        files.write_json(tmp / INDEX, {"corpus": corpus.hash, "by": by, "names": list(numbers)})
