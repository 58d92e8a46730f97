"""The corpus folder: what it holds, and `Corpus`, which reads it back.

| file | holds |
| --- | --- |
| corpus.json | the summary: inputs, seed, counts by split, kind and licence, and of what each rule dropped |
| train.jsonl, validation.jsonl, test.jsonl | one kept document a line: id, path, kind, licence, text; sorted by id |
| ledger.jsonl | one line for every document and file seen: its split, or the rule that dropped it (docs/curation.md) |
| train.tar, validation.tar, test.tar | the pictures of the rows that have one (corpus/pictures.py) |
| MANIFEST.json | size and checksum of each of these |
"""
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.core import files
from meristem.core.errors import MachineError, RequestError, nearest
from meristem.core.types import Document

SPLITS = ("train", "validation", "test")
# What a document may have; all but text come from corpus.labelled.
FIELDS = ("text", "label", "words", "labels", "question", "answer", "input", "target", "shots", "image",
          "images", "action", "state", "return", "masks", "objects", "messages", "tools", "prompt", "completion",
          "chosen", "rejected", "audio", "series")
SUMMARY, LEDGER = "corpus.json", "ledger.jsonl"
NOTICE = "NOTICE"                       # beside rows: a line that everything made of them must repeat


@dataclass(frozen=True)
class Corpus:
    """A verified corpus folder. `summary` is corpus.json; `hash` names the documents and their splits."""

    folder: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read and verify a folder that curate wrote; RequestError: it is none, MachineError: a file is damaged."""
        if not (folder / SUMMARY).is_file():
            raise RequestError(f"{folder} is not a corpus: it has no {SUMMARY}; "
                               f"write one with `meristem curate INPUT --out {folder}`")
        if trouble := files.verify(folder):
            raise MachineError(f"the corpus in {folder} cannot be trusted: {trouble}; remove it and curate again")
        return cls(folder, files.read_json(folder / SUMMARY))

    @property
    def hash(self) -> str:
        """xxh3-128 over the ids of each split, hex."""
        return self.summary["hash"]

    def describe(self) -> str:
        """One line: how much was read, kept and dropped, and by which rules most."""
        seen, kept = self.summary["seen"], self.summary["splits"]
        documents, size = (sum(split[key] for split in kept.values()) for key in ("documents", "bytes"))
        parts = ", ".join(f"{name} {kept[name]['documents']:,}" for name in SPLITS)
        drops = sorted(self.summary["dropped"].items(), key=lambda item: -item[1]["documents"])
        why = ", ".join(f"{row['documents']:,} by {rule}" for rule, row in drops[:4])
        return (f"{documents:,} documents ({size / 1e6:.1f} MB: {parts}) kept of {seen['documents']:,} seen"
                + (f"; dropped: {why}" + (", ..." if drops[4:] else "") if drops else ""))

    def documents(self, split: str) -> Iterator[Document]:
        """The kept documents of one split, sorted by id; RequestError for a split that does not exist."""
        if split not in SPLITS:
            raise RequestError(f"no split {split!r}; {nearest(split, SPLITS)}")
        for row in _lines(self.folder / f"{split}.jsonl"):
            meta = {"path": row["path"], "kind": row["kind"]}
            fields = {key: row[key] for key in FIELDS if key in row}
            yield Document(row["id"], row["path"], row["licence"], fields, meta)

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every line of the ledger, sorted by id and path."""
        return _lines(self.folder / LEDGER)


def line(row: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as f:
        yield from map(json.loads, f)
