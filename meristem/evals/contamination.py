"""Which test items the training documents already hold: exact text and 13-word runs, from an index built once.

Brown et al. 2020 (GPT-3), appendix C: two texts overlap when they share a run of 13 words (case and punctuation
ignored). The index is sorted uint64 arrays kept in the corpus folder, each run with the documents that hold it, so a
check is a binary search: milliseconds for hundreds of items. An item is *exactly* in training when its
whitespace-normalised text is a training document, or when one document holds all of its 13-word runs (a passage inside
a longer document; for 64-bit hashes a false hit on one run is a chance of 1e-12).

    overlaps = Index.build(corpus).check(["some text", "another"])
    overlaps[0].exact, overlaps[0].holders          # True, (("1f3c...", 27), ...): documents and the runs they share
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from meristem.core.files import committed, digest_bytes, read_json, verify, write_json
from meristem.core.progress import SILENT, Progress
from meristem.corpus.ngrams import hashes
from meristem.corpus.store import Corpus

WORDS = 13
FOLDER, ABOUT = "contamination", "index.json"
VERSION = 2
ARRAYS = ("documents", "whose", "runs", "owners", "ids")
NAMED = 3                               # documents named a item, those that share most


@dataclass(frozen=True)
class Overlap:
    """One item: in training as a whole, how many of its 13-word runs are in training, how many it has.

    `holders` are the training documents that share most runs with it, with how many; `documents` counts all.
    """

    exact: bool
    seen: int
    runs: int
    documents: int = 0
    holders: tuple[tuple[str, int], ...] = ()

    @property
    def clean(self) -> bool:
        """Shares nothing with training that this index can see."""
        return not self.exact and self.seen == 0


@dataclass(frozen=True)
class Index:
    """Hashes of the training split, sorted: whole documents (`whose` numbers them) and their 13-word runs (`owners`).

    `ids` are the documents' ids by number; `hash` names the content.
    """

    documents: np.ndarray
    whose: np.ndarray
    runs: np.ndarray
    owners: np.ndarray
    ids: np.ndarray
    hash: str

    @classmethod
    def build(cls, corpus: Corpus, progress: Progress = SILENT) -> "Index":
        """The corpus's index, from its folder when it is there and whole, else made (about 10 MB of text a second)."""
        folder = corpus.folder / FOLDER
        made = {"version": VERSION, "words": WORDS, "corpus": corpus.hash}
        if (folder / ABOUT).is_file() and not verify(folder) and read_json(folder / ABOUT)["made"] == made:
            return cls._read(folder)
        progress.stage("index the training split")
        arrays = _arrays(corpus)
        with committed(folder) as tmp:
            for name in ARRAYS:
                np.save(tmp / f"{name}.npy", arrays[name], allow_pickle=False)
            write_json(tmp / ABOUT, {"made": made, "documents": len(arrays["ids"]), "runs": len(arrays["runs"]),
                                     "hash": digest_bytes(*(arrays[name].tobytes() for name in ARRAYS))})
        return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "Index":
        documents, whose, runs, owners, ids = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                                               for name in ARRAYS)
        return cls(documents, whose, runs, owners, ids, read_json(folder / ABOUT)["hash"])

    def check(self, texts: Sequence[str]) -> list[Overlap]:
        """The overlap of each text with the training split."""
        return [self._check(text) for text in texts]

    def _check(self, text: str) -> Overlap:
        wanted = np.unique(hashes(text, WORDS))
        low, high = (np.searchsorted(self.runs, wanted, side) for side in ("left", "right"))
        shared: dict[int, int] = {}
        found = [self.owners[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True) if b > a]
        if found:
            numbers, counts = np.unique(np.concatenate(found), return_counts=True)
            shared = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        whole = exact_hash(text)
        first, last = (int(np.searchsorted(self.documents, np.uint64(whole), side)) for side in ("left", "right"))
        same = [int(n) for n in self.whose[first:last]]
        for number in same:
            shared[number] = len(wanted)
        most = sorted(shared.items(), key=lambda pair: (-pair[1], pair[0]))
        exact = bool(same) or bool(most and most[0][1] == len(wanted))
        return Overlap(exact, len(found), len(wanted), len(shared),
                       tuple((self.ids[number].decode(), count) for number, count in most[:NAMED]))


def evidence(overlaps: Sequence[Overlap]) -> list[dict[str, Any]]:
    """A row for every item that is not clean, as evals/TASK.json keeps them."""
    return [{"item": n, "exact": o.exact, "seen": o.seen, "runs": o.runs, "documents": o.documents,
             "holders": [list(pair) for pair in o.holders]} for n, o in enumerate(overlaps) if not o.clean]


def exact_hash(text: str) -> int:
    """64-bit hash of a text with every run of whitespace made one space."""
    return xxhash.xxh3_64_intdigest(" ".join(text.split()).encode("utf-8", "surrogatepass"))


def _arrays(corpus: Corpus) -> dict[str, np.ndarray]:
    """The index's arrays by name; documents are numbered in the order of the split."""
    whole, runs, ids = [], [np.empty(0, dtype=np.uint64)], []
    for document in corpus.documents("train"):
        ids.append(document.id)
        whole.append(exact_hash(document.text))
        runs.append(np.unique(hashes(document.text, WORDS)))
    owners = np.repeat(np.arange(len(ids), dtype=np.int32), [len(some) for some in runs[1:]])
    every, documents = np.concatenate(runs), np.array(whole, dtype=np.uint64)
    order, first = np.argsort(every, kind="stable"), np.argsort(documents, kind="stable")
    return {"documents": documents[first], "whose": first.astype(np.int32), "runs": every[order],
            "owners": owners[order], "ids": np.array(ids, dtype="S32")}
