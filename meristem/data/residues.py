"""Procedural proteins with exact ground truth: chains of helices, strands and loops, each residue labelled.

    meristem curate toy:residues documents=2000 --out runs/residues

A segment's letters come from those that real helices, strands and loops prefer (Chou & Fasman 1978, table 1), so its
neighbours tell what a hidden residue may be. A row is {"words": residues, "labels": H, E or C each}: its text trains
`esm`, its labels `esm_residues`. `scan.csv` beside the rows is a mutation scan of one more chain: a substitute from the
same group costs nothing, any other 1, with noise of 0.3 on top. Everything is a function of the fields and the seed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meristem.codecs.protein import RESIDUES
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus

GROUPS = {"H": "AELMQKR", "E": "VIYFWTC", "C": "GNPSDH"}       # what helices, strands and loops are made of
LENGTHS = {"H": (6, 14), "E": (4, 8), "C": (2, 6)}             # residues of a segment
NOISE = 0.3
assert sorted("".join(GROUPS.values())) == sorted(RESIDUES)


@dataclass(frozen=True)
class Residues:
    """What chains are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 1000
    seed: int = 0
    length: int = 60                    # residues of a chain, about

    def __post_init__(self) -> None:
        if self.documents < 1 or not 10 <= self.length <= 10_000:
            raise RequestError(f"toy:residues has at least one document of 10 to 10,000 residues, not {self}")

    def chain(self, split: str, number: int) -> tuple[str, str]:
        """Residues and their labels, of equal length."""
        rng = np.random.default_rng(seed_of("residues", self.seed, split, number))
        residues, labels = "", ""
        while len(residues) < self.length:
            kind = "C" if labels and labels[-1] != "C" else "HE"[rng.integers(2)]
            count = int(rng.integers(*LENGTHS[kind]))
            residues += "".join(rng.choice(list(GROUPS[kind]), count))
            labels += kind * count
        return residues, labels

    def scan(self) -> list[tuple[str, float]]:
        """Every substitution of one chain and its effect, 0 or -1 with noise."""
        residues, labels = self.chain("scan", 0)
        rng = np.random.default_rng(seed_of("residues", self.seed, "effects"))
        return [(f"{old}{at + 1}{new}", round((new in GROUPS[labels[at]]) - 1 + NOISE * rng.standard_normal(), 4))
                for at, old in enumerate(residues) for new in RESIDUES if new != old]


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and the scan in `out`.rows."""
    kind = from_dict(Residues, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        if split == "train":
            lines = "".join(f"{mutant},{effect}\n" for mutant, effect in kind.scan())
            (folder / "scan.csv").write_text("mutant,effect\n" + lines, encoding="utf-8")
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            residues, labels = kind.chain(split, number)
            yield {"words": list(residues), "labels": list(labels)}

    return made(out, "toy proteins", LICENCE, rows)
