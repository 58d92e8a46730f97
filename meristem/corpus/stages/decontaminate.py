"""Documents that hold an evaluation item are dropped, with the item as the witness.

Brown et al. 2020 (GPT-3), appendix C: a run of 13 words in common, case and punctuation ignored. An item shorter than
that must stand in the document as a whole (from 5 words on). A near match is an item of which half of the 5-word
shingles are in the document, in whatever order: edited and reordered copies. `--stages decontaminate:items=FILE` reads
JSON lines; of each row every string counts as one item, so question and answer are looked for apart.
"""
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.corpus import ngrams
from meristem.corpus.stages.base import Batch, stamp

WORDS, SHINGLE = 13, 5
NEAR = 0.5                              # of the shingles of an item: with each 12th word changed 0.6 are left
FEWEST = 20                             # shingles of an item that may be matched by share


@dataclass(frozen=True)
class Index:
    """Hashes of the items' runs, sorted, by their length in words, each with the number of its item."""

    names: list[str]
    runs: dict[int, tuple[np.ndarray, np.ndarray]]
    sizes: dict[int, int] = field(default_factory=dict)        # shingles of an item

    @classmethod
    def of(cls, items: list[tuple[str, str]]) -> "Index":
        """From (name, text) of each item."""
        found: dict[int, list[tuple[int, int]]] = {}
        sizes = {}
        for number, (_, text) in enumerate(items):
            words = len(ngrams.word_hashes(text))
            length = min(WORDS, words)
            if words >= SHINGLE:
                found.setdefault(length, []).extend((h, number) for h in set(ngrams.hashes(text, length).tolist()))
            shingles = set(ngrams.hashes(text, SHINGLE).tolist())
            if len(shingles) >= FEWEST:
                sizes[number] = len(shingles)
                found.setdefault(-SHINGLE, []).extend((h, number) for h in shingles)
        tables = {}
        for length, pairs in found.items():
            pairs.sort()
            tables[length] = (np.array([h for h, _ in pairs], np.uint64), np.array([n for _, n in pairs], np.int64))
        return cls([name for name, _ in items], tables, sizes)

    def match(self, text: str) -> tuple[str, str] | None:
        """(item, what is in common) of the item that a text holds most of; None when it holds none."""
        for length, (table, numbers) in self.runs.items():
            if length > 0 and (hits := _hits(ngrams.hashes(text, length), table, numbers)):
                number, count = max(hits.items(), key=lambda item: (item[1], -item[0]))
                return self.names[number], f"{count} runs of {length} words"
        if -SHINGLE in self.runs:
            hits = _hits(ngrams.hashes(text, SHINGLE), *self.runs[-SHINGLE])
            shares = {number: count / self.sizes[number] for number, count in hits.items()}
            number = max(shares, key=lambda n: (shares[n], -n), default=-1)
            if number >= 0 and shares[number] >= NEAR:
                return self.names[number], f"{shares[number]:.2f} of its shingles of {SHINGLE} words"
        return None


@dataclass(frozen=True)
class Stage:
    """`items`: a file of JSON lines with the evaluation items."""

    items: str

    def __call__(self, batch: Batch) -> Batch:
        """The batch with documents dropped by `contaminated`; facts name the item as `witness`."""
        index = _index(self.items, stamp(self.items))
        rules, values, facts = list(batch["rule"]), list(batch["value"]), list(batch["facts"])
        for n, text in enumerate(batch["text"]):
            if not rules[n] and (found := index.match(text)):
                facts[n] = {**facts[n], "witness": found[0]}
                rules[n], values[n] = "contaminated", found[1]
        return {**batch, "rule": rules, "value": values, "facts": facts}


def _hits(hashes: np.ndarray, table: np.ndarray, numbers: np.ndarray) -> Counter[int]:
    """How many different hashes of each item are among `hashes`."""
    hashes = np.unique(hashes)
    low, high = np.searchsorted(table, hashes), np.searchsorted(table, hashes, side="right")
    counts: Counter[int] = Counter()
    for start, stop in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
        counts.update(numbers[start:stop].tolist())
    return counts


@lru_cache(maxsize=4)
def _index(path: str, when: int) -> Index:
    return Index.of(list(_items(Path(path))))


def _items(path: Path) -> Iterator[tuple[str, str]]:
    """(file#line, text) of every string in a file of JSON lines; RequestError names file and line."""
    try:
        with open(path.expanduser(), encoding="utf-8") as f:
            for number, text in enumerate(f, start=1):
                if text.strip():
                    row: Any = json.loads(text)
                    strings = row.values() if isinstance(row, dict) else [row]
                    yield from ((f"{path.name}#{number}", s) for s in strings if isinstance(s, str) and s.strip())
    except (OSError, ValueError) as error:
        raise RequestError(f"decontaminate:items={path} cannot be read as JSON lines: {error}") from None
