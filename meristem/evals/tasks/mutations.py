"""Effects of mutations without having seen one: Spearman's correlation of masked marginals with a measured scan.

Meier et al. 2021, https://doi.org/10.1101/2021.07.09.450648, section 3 and equation 1: each mutated place of the chain
is masked, and a mutation's score is log p(mutant) - log p(wild type) there, summed over its places. The file has a
column `mutant` (H24C; several as A1G:L7V) and one of effects, the last unless it is named:

    meristem evaluate runs/esm --corpus CORPUS --tasks mutations=BLAT.csv.gz:2500

The chain is read off the mutants themselves. A score is a mean over mutations of products of standardised ranks, which
is Spearman's coefficient, so the interval resamples places. Baselines: how common the residues are in training
(composition), and how alike they are in BLOSUM62 (Henikoff & Henikoff 1992, https://doi.org/10.1073/pnas.89.22.10915).
"""
import csv
import gzip
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from meristem.codecs.base import Codec
from meristem.codecs.protein import RESIDUES
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.formats.base import LARGEST
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.subject import Subject
from meristem.generate.residues import marginals

ON_REQUEST = True                       # it needs a file
METRIC = Metric("mutations", "rank correlation of predicted with measured effects of mutations", "Spearman", "ratio",
                True)
CHANGE = re.compile(r"([A-Z])(\d+)([A-Z])")
BLOSUM62 = """ARNDCQEGHILKMFPSTWYV
4
-1 5
-2 0 6
-2 -2 1 6
0 -3 -3 -3 9
-1 1 0 0 -3 5
-1 0 0 2 -4 2 5
0 -2 0 -1 -3 -2 -2 6
-2 0 1 -1 -3 0 0 -2 8
-1 -3 -3 -3 -1 -3 -3 -4 -3 4
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4"""


class Mutations:
    """Items are the mutations of a file."""

    name, version, count = "mutations", 1, 100_000
    metrics = (METRIC,)

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def reading(self, file: Path) -> "Mutations":
        """The same task with another scan: a path, maybe with `:COLUMN` behind it."""
        return Mutations(file)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` mutations: the prompt is the mutation, the answer its effect, the group its first place."""
        if self.file is None:
            raise RequestError("mutations needs a scan: --tasks mutations=SCAN.csv, with columns mutant and effect")
        return [Item(CHANGE.findall(name)[0][1], name, repr(effect))
                for name, effect in drawn(read(self.file), limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Masked marginals of a model of masked residues."""
        if not isinstance(subject, Subject) or "mask" not in subject.codec.marks:
            raise RequestError("mutations are scored by a model of masked residues; train one with recipe esm")
        first, chain = chain_of([item.prompt for item in items])
        logp = marginals(subject.module, subject.codec, chain)
        ids = {letter: int(subject.codec.encode(letter)[0]) for letter in RESIDUES}
        return outcome([sum(float(logp[place - first, ids[new]] - logp[place - first, ids[old]])
                            for old, place, new in changes(item.prompt)) for item in items], items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Composition of the training chains, and BLOSUM62."""
        counts = Counter(RESIDUES)                             # one of each, so that none is impossible
        for document in corpus.documents("train"):
            counts.update(document.text)
        common = {letter: math.log(counts[letter]) for letter in RESIDUES}
        alike = blosum62()
        scores = {"": [sum(common[new] - common[old] for old, _, new in changes(i.prompt)) for i in items],
                  "/blosum": [float(sum(alike[old, new] for old, _, new in changes(i.prompt))) for i in items]}
        said = {"": "how common the residues are", "/blosum": "BLOSUM62"}
        return {METRIC.name + key: Baseline(said[key], outcome(values, items)) for key, values in scores.items()}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The order is right by definition."""
        return {}


def read(named: Path) -> list[tuple[str, float]]:
    """(mutation, effect) of every row that has both; RequestError says what a file lacks."""
    path, column = named, ""
    if not path.is_file() and ":" in named.name:
        name, _, column = named.name.rpartition(":")
        path = named.with_name(name)
    try:
        raw = path.read_bytes()
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            text = (packed.read(LARGEST + 1) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as a table: {error}") from None
    if len(text) > LARGEST:
        raise RequestError(f"{path} is larger than {LARGEST >> 20} MiB")
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0]) if rows else []
    column = column or (columns[-1] if columns else "")
    if "mutant" not in columns or column not in columns:
        raise RequestError(f"{path} needs columns mutant and {column or 'effect'}; it has {', '.join(columns)}")
    found = [(row["mutant"], float(row[column])) for row in rows if row["mutant"] and row[column]]
    bad = [name for name, _ in found if any(not CHANGE.fullmatch(part) for part in name.split(":"))]
    if bad or not found:
        raise RequestError(f"{path}: {bad[0] if bad else 'no row'} is no mutation; write H24C, or A1G:L7V for two")
    return found


def changes(mutation: str) -> list[tuple[str, int, str]]:
    """(old, place, new) of each change."""
    return [(old, int(place), new) for old, place, new in CHANGE.findall(mutation)]


def chain_of(mutations: Sequence[str]) -> tuple[int, str]:
    """The first place and the residues of the chain that the mutations change; places that none changes are X."""
    known: dict[int, str] = {}
    for old, place, _ in (change for one in mutations for change in changes(one)):
        if known.setdefault(place, old) != old:
            raise RequestError(f"place {place} is {known[place]} in one mutation and {old} in another")
    first, last = min(known), max(known)
    return first, "".join(known.get(place, "X") for place in range(first, last + 1))


def outcome(scores: Sequence[float], items: Sequence[Item]) -> Outcome:
    """Products of standardised ranks: their mean is Spearman's coefficient."""
    a, b = (standardised(np.array(some)) for some in (scores, [float(item.answer) for item in items]))
    return Outcome({METRIC.name: (a * b).tolist()}, {METRIC.name: [1.0] * len(items)}, [f"{s:.3f}" for s in scores])


def standardised(values: np.ndarray) -> np.ndarray:
    """Ranks (ties share their mean), less their mean, over their deviation; 0 where all are equal."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[which]
    spread = ranks.std()
    return (ranks - ranks.mean()) / spread if spread else np.zeros(len(values))


def blosum62() -> dict[tuple[str, str], int]:
    """How often one residue stands for another, in half bits over chance."""
    letters, *rows = BLOSUM62.split("\n")
    half = {(letters[i], letters[j]): int(word) for i, row in enumerate(rows) for j, word in enumerate(row.split())}
    return half | {(b, a): value for (a, b), value in half.items()}


TASK = Mutations()
