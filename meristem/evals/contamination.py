"""Which test items the training documents already hold: exact text and 13-word runs, from an index built once.

Brown et al. 2020 (GPT-3), appendix C: two texts overlap when they share a run of 13 words (case and punctuation
ignored). The index is two sorted uint64 arrays kept in the corpus folder, so a check is a binary search: milliseconds
for hundreds of items. Whether an item is *exactly* in training is decided in two ways: its whitespace-normalised text
is a training document, or all of its 13-word runs are in training (a passage inside a longer document; for 64-bit
hashes a false hit on one run is a chance of 1e-12).

    overlaps = Index.build(corpus).check(["some text", "another"])
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from meristem.core.files import committed, digest_bytes, read_json, verify, write_json
from meristem.core.progress import SILENT, Progress
from meristem.corpus.ngrams import hashes
from meristem.corpus.store import Corpus

WORDS = 13
FOLDER, ABOUT = "contamination", "index.json"
VERSION = 1


@dataclass(frozen=True)
class Overlap:
    """One item: in training as a whole, how many of its 13-word runs are in training, how many it has."""

    exact: bool
    seen: int
    runs: int

    @property
    def clean(self) -> bool:
        """Shares nothing with training that this index can see."""
        return not self.exact and self.seen == 0


@dataclass(frozen=True)
class Index:
    """Sorted hashes of the training split: whole documents, and their 13-word runs. `hash` names the content."""

    documents: np.ndarray
    runs: np.ndarray
    hash: str

    @classmethod
    def build(cls, corpus: Corpus, progress: Progress = SILENT) -> "Index":
        """The corpus's index, from its folder when it is there and whole, else made (about 10 MB of text a second)."""
        folder = corpus.folder / FOLDER
        made = {"version": VERSION, "words": WORDS, "corpus": corpus.hash}
        if (folder / ABOUT).is_file() and not verify(folder) and read_json(folder / ABOUT)["made"] == made:
            return cls._read(folder)
        progress.stage("index the training split")
        whole, runs = [], [np.empty(0, dtype=np.uint64)]
        for document in corpus.documents("train"):
            whole.append(exact_hash(document.text))
            runs.append(np.unique(hashes(document.text, WORDS)))
        documents = np.unique(np.array(whole, dtype=np.uint64))
        grams = np.unique(np.concatenate(runs))
        with committed(folder) as tmp:
            np.save(tmp / "documents.npy", documents, allow_pickle=False)
            np.save(tmp / "runs.npy", grams, allow_pickle=False)
            about = {"made": made, "documents": len(documents), "runs": len(grams),
                     "hash": digest_bytes(documents.tobytes(), grams.tobytes())}
            write_json(tmp / ABOUT, about)
        return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "Index":
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("documents", "runs")]
        return cls(arrays[0], arrays[1], read_json(folder / ABOUT)["hash"])

    def check(self, texts: Sequence[str]) -> list[Overlap]:
        """The overlap of each text with the training split."""
        out = []
        for text in texts:
            runs = np.unique(hashes(text, WORDS))
            seen = int(_inside(runs, self.runs).sum())
            whole = bool(_inside(np.array([exact_hash(text)], dtype=np.uint64), self.documents)[0])
            out.append(Overlap(whole or (seen == len(runs) > 0), seen, len(runs)))
        return out


def exact_hash(text: str) -> int:
    """64-bit hash of a text with every run of whitespace made one space."""
    return xxhash.xxh3_64_intdigest(" ".join(text.split()).encode("utf-8", "surrogatepass"))


def _inside(wanted: np.ndarray, table: np.ndarray) -> np.ndarray:
    if not len(table):
        return np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return table[place] == wanted
