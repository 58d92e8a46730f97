"""What was read and judged, on disk until the whole input is known: segments that are whole or absent.

A segment is a folder: `rows.jsonl` (one row a document or file, sorted by id and path), `texts` (those that may still
be kept), `signatures.npy` and `keys.npy` (dedup) and, in its manifest, the position in the input behind its last
record. A run that was killed goes on from the last whole segment. Rows are merged as they are read, so memory does not
grow with the input.

    spool = Spool(work, key)
    with spool.segment() as segment: segment.add(row, text, signature); segment.position = (file, record)
    for row in spool.rows(): text = spool.text(row)
"""
import heapq
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core import files
from meristem.core.errors import RequestError
from meristem.corpus import dedup
from meristem.corpus.store import line

Row = dict[str, Any]
BLOCK = 1 << 16                         # bytes of rows in memory a segment while they are merged
KEY = "key.json"


class Segment:
    """A segment that is being written."""

    def __init__(self, folder: Path) -> None:
        self.rows: list[Row] = []
        self.signatures: list[np.ndarray] = []
        self.ids: list[int] = []
        self.trees: list[int] = []      # hashes of syntax trees (stages/syntax.py), 0 for none
        self.position = (0, 0)
        self.size = 0                   # bytes read
        self.kept = 0                   # bytes of text so far
        self.folder, self._texts = folder, open(folder / "texts", "wb")     # noqa: SIM115 - closed by close()

    def add(self, row: Row, text: bytes | None, signature: np.ndarray | None) -> None:
        """One row; with its text when no rule dropped it, with its signature when it has shingles."""
        if text is not None:
            index = -1
            if signature is not None:
                index = len(self.signatures)
                self.signatures.append(signature)
                self.ids.append(int(row["id"][:16], 16))
                self.trees.append(int(row.get("facts", {}).get("syntax", "0")[:16], 16))
            row = {**row, "at": [self.kept, len(text), index]}
            self._texts.write(text)
            self.kept += len(text)
        self.rows.append(row)
        self.size += row["bytes"]

    def close(self) -> None:
        """Write the tables and close the texts."""
        self._texts.close()
        with open(self.folder / "rows.jsonl", "w", encoding="utf-8") as f:
            f.writelines(map(line, sorted(self.rows, key=_place)))
        found = np.stack(self.signatures) if self.signatures else np.empty((0, dedup.BANDS * dedup.ROWS), np.uint32)
        for name, table in (("signatures", found), ("keys", dedup.band_keys(found)),
                            ("ids", np.array(self.ids, dtype=np.uint64)),
                            ("trees", np.array(self.trees, dtype=np.uint64))):
            np.save(self.folder / f"{name}.npy", table, allow_pickle=False)


class Spool:
    """The segments in one folder. Those of another request or other inputs (`key`) are removed."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        try:
            same = files.read_json(folder / KEY) == key
        except RequestError:
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            files.write_json(folder / KEY, key)
        self.segments: list[Path] = []
        while not files.verify(there := self._name(len(self.segments))):
            self.segments.append(there)
        self._meets: list[np.ndarray] = []

    @property
    def position(self) -> tuple[int, int]:
        """(file, record) where reading goes on: everything before it is in a segment."""
        if not self.segments:
            return 0, 0
        file, record = files.read_json(self.segments[-1] / files.MANIFEST)["position"]
        return file, record

    @contextmanager
    def segment(self) -> Iterator[Segment]:
        """A new segment, committed with its `position` when the block ends."""
        name = self._name(len(self.segments))
        extra: dict[str, Any] = {}
        with files.committed(name, extra) as folder:
            segment = Segment(folder)
            try:
                yield segment
            finally:
                segment.close()
            extra["position"] = list(segment.position)
        self.segments.append(name)

    def rows(self) -> Iterator[Row]:
        """Every row, sorted by id and path over all segments; `segment` says where its text is."""
        return heapq.merge(*(self._rows(n) for n in range(len(self.segments))), key=_place)

    def text(self, row: Row) -> str:
        """The text of a row that no rule dropped."""
        path, start, size = self.place(row)
        with open(path, "rb") as f:
            f.seek(start)
            return f.read(size).decode()

    def meeting(self) -> None:
        """Find which texts share a band with another one: only those can have a twin. Call once, before `group`."""
        keys, ids, trees = ([np.load(s / f"{name}.npy", mmap_mode="r", allow_pickle=False) for s in self.segments]
                     for name in ("keys", "ids", "trees"))
        self._meets = dedup.meeting(keys, ids, trees)

    def group(self, row: Row) -> int:
        """The group in which a row may have a twin; -1 when it has no shingles or meets no other text."""
        index = row["at"][2]
        return int(self._meets[row["segment"]][index]) if index >= 0 else -1

    def signature(self, row: Row) -> np.ndarray:
        """The signature of a row that has shingles."""
        table = np.load(self.segments[row["segment"]] / "signatures.npy", mmap_mode="r", allow_pickle=False)
        return np.array(table[row["at"][2]])

    def place(self, row: Row) -> tuple[str, int, int]:
        """The file in which a row's text stands, where, and its bytes."""
        start, size, _ = row["at"]
        return str(self.segments[row["segment"]] / "texts"), start, size

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self, number: int) -> Path:
        return self.folder / f"{number:06}"

    def _rows(self, number: int) -> Iterator[Row]:
        """The rows of one segment; the file is opened for each block, as a corpus may have thousands of segments."""
        path, start, rest = self.segments[number] / "rows.jsonl", 0, b""
        while True:
            with open(path, "rb") as f:
                f.seek(start)
                block = f.read(BLOCK)
            if not block:
                return
            start += len(block)
            *whole, rest = (rest + block).split(b"\n")
            for text in whole:
                yield {**json.loads(text), "segment": number}


def _place(row: Row) -> tuple[str, str]:
    return row["id"], row["path"]
