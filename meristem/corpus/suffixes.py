"""Every place where a text stands in the training documents: a suffix array over their bytes, built once.

Manber & Myers 1993 (suffix arrays; built by divsufsort, https://github.com/y-256/libdivsufsort, extra `trace`). The
longest run of a text that stands anywhere in the corpus is found by binary search, whatever its length and wherever it
begins, without a list of n-grams: as infini-gram does for trillions of tokens (Liu et al. 2024,
https://arxiv.org/abs/2401.17377). CORPUS/suffixes/ holds

    text        the documents' UTF-8, a byte 0xFF after each (it is in no UTF-8, so no match crosses two documents)
    suffixes    int32 [bytes of text]: where each suffix begins, in the order of the suffixes
    starts, lines   int64 [D]: where each document begins in `text`, and its line in the split's .jsonl

    index = Suffixes.build(corpus)
    size, low, high = index.longest(b"def add(")               # matched bytes, and its range in `suffixes`
"""
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.files import committed, read_json, verify, write_json
from meristem.core.progress import SILENT, Progress
from meristem.corpus.store import Corpus

FOLDER, ABOUT = "suffixes", "index.json"
BETWEEN = b"\xff"
LONGEST = 1 << 12                       # bytes of one match that are looked at
VERSION = 1


@dataclass(frozen=True)
class Suffixes:
    """A verified index of one split; `text` is the mapped file."""

    corpus: Corpus
    split: str
    text: mmap.mmap
    order: memoryview                   # int32
    starts: np.ndarray
    lines: np.ndarray

    @classmethod
    def build(cls, corpus: Corpus, split: str = "train", progress: Progress = SILENT) -> "Suffixes":
        """The corpus's index, from its folder when it is there and whole, else made (about 7 MB of text a second).

        RequestError without divsufsort, for a corpus above 2 GB, and for one without text.
        """
        folder, made = corpus.folder / FOLDER / split, {"version": VERSION, "corpus": corpus.hash}
        if not ((folder / ABOUT).is_file() and not verify(folder) and read_json(folder / ABOUT) == made):
            _write(corpus, split, folder, made, progress)
        with open(folder / "text", "rb") as f:
            text = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        with open(folder / "suffixes", "rb") as f:
            order = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)).cast("i")
        starts, lines = (np.fromfile(folder / name, dtype="<i8") for name in ("starts", "lines"))
        return cls(corpus, split, text, order, starts, lines)

    def longest(self, wanted: bytes) -> tuple[int, int, int]:
        """The longest beginning of `wanted` that stands in the text: its bytes, and low, high: `order[low:high]` are
        all its places. (0, 0, 0) when not even its first byte does."""
        wanted = wanted[:LONGEST]
        at = self._first(wanted)
        size = max(self._shared(wanted, i) for i in (at - 1, at))
        if not size:
            return 0, 0, 0
        found = wanted[:size]
        return size, self._first(found), self._first(found, past=True)

    def holds(self, wanted: bytes) -> bool:
        """Whether `wanted` (LONGEST bytes at most) stands in the text."""
        i = self._first(wanted)
        return i < len(self.order) and self.text[self.order[i]: self.order[i] + len(wanted)] == wanted

    def document(self, place: int) -> tuple[int, int]:
        """(document, byte in it) of a place in the text."""
        number = int(np.searchsorted(self.starts, place, "right")) - 1
        return number, place - int(self.starts[number])

    def row(self, number: int) -> dict[str, Any]:
        """The line of a document in the split's .jsonl: id, path, kind, licence, text."""
        with open(self.corpus.folder / f"{self.split}.jsonl", "rb") as f:
            f.seek(int(self.lines[number]))
            row: dict[str, Any] = json.loads(f.readline())
        return row

    def _first(self, wanted: bytes, past: bool = False) -> int:
        """How many suffixes are less than `wanted`, or (`past`) begin with it or less."""
        low, high, text, order, size = 0, len(self.order), self.text, self.order, len(wanted)
        while low < high:
            middle = (low + high) >> 1
            at = order[middle]
            there = text[at: at + size]
            if there < wanted or (past and there == wanted):
                low = middle + 1
            else:
                high = middle
        return low

    def _shared(self, wanted: bytes, i: int) -> int:
        """How many bytes the i-th suffix begins like `wanted`."""
        if not 0 <= i < len(self.order):
            return 0
        there = self.text[self.order[i]: self.order[i] + len(wanted)]
        low, high = 0, len(there)
        while low < high:
            middle = (low + high + 1) >> 1
            low, high = (middle, high) if there[:middle] == wanted[:middle] else (low, middle - 1)
        return low


def _write(corpus: Corpus, split: str, folder: Path, made: dict[str, Any], progress: Progress) -> None:
    try:
        from pydivsufsort import divsufsort  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError("finding texts in a corpus needs pydivsufsort; pip install 'meristem[trace]'") from None
    progress.stage("index the training documents")
    starts: list[int] = []
    lines: list[int] = []
    parts: list[bytes] = []
    size = at = 0
    with open(corpus.folder / f"{split}.jsonl", "rb") as f:
        for line in f:
            if "text" in (row := json.loads(line)):
                starts.append(size)
                lines.append(at)
                parts.append(row["text"].encode("utf-8", "surrogatepass") + BETWEEN)
                size += len(parts[-1])
            at += len(line)
    if not size:
        raise RequestError(f"the {split} split of {corpus.folder} holds no text to look in")
    if size >= 1 << 31:
        raise RequestError(f"the {split} split of {corpus.folder} has {size / 1e9:.1f} GB of text; the index takes "
                           "2.1 GB at most")
    text = np.frombuffer(bytearray().join(parts), dtype=np.uint8)          # divsufsort takes no read-only array
    order = divsufsort(text)
    with committed(folder) as tmp:
        text.tofile(tmp / "text")
        order.astype("<i4").tofile(tmp / "suffixes")
        np.array(starts, dtype="<i8").tofile(tmp / "starts")
        np.array(lines, dtype="<i8").tofile(tmp / "lines")
        write_json(tmp / ABOUT, made)
