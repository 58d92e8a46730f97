"""Raw files to a corpus folder: read, judge, drop duplicates, split; every decision goes into the ledger.

    corpus = curate(find.standard_library(), Path("runs/corpus"))
    meristem curate ~/notes --out runs/corpus                       # the same from the shell

The result is a pure function of the documents, whatever the order they are read in: they are taken in the order of
their ids, which are hashes. Memory is flat: one text at a time, and about 2 kB for each that passed the rules.
"""
import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.corpus import dedup, filter, ngrams, read
from meristem.corpus.store import LEDGER, SPLITS, SUMMARY, Corpus, line

SHARE = 0.05                            # of the documents for test, and the same for validation
POOL = ".pool"                          # texts that passed the rules, until they are sorted; not kept


@dataclasses.dataclass
class _Entry:
    """What is remembered of a document or file: its ledger line, and where its text lies in the pool."""

    id: str                             # "" for a file that gave no document
    path: str
    kind: str
    licence: str
    bytes: int
    rule: str = ""                      # the rule that dropped it
    value: float | str = 0              # what the rule saw
    twin: "_Entry | None" = None        # the kept document that it duplicates
    split: str = ""                     # where it is kept
    start: int = 0                      # of its text in the pool
    signature: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.uint32))

    def drop(self, rule: str, value: float | str, twin: "_Entry | None" = None) -> None:
        """Decide against it."""
        self.rule, self.value, self.twin = rule, value, twin

    def row(self) -> dict[str, Any]:
        """Its ledger line."""
        facts: dict[str, Any] = {key: getattr(self, key) for key in ("id", "path", "kind", "licence", "bytes")}
        if self.split:
            return {**facts, "verdict": "kept", "split": self.split}
        witness = {"witness": self.twin.id, "witness_path": self.twin.path} if self.twin else {}
        return {**facts, "verdict": "dropped", "rule": self.rule, "value": self.value, **witness}


def curate(paths: Sequence[Path], out: Path, *, seed: int = 0, limit_bytes: int = 0, expect: str = "",
           progress: Progress = SILENT) -> Corpus:
    """Curate the files below `paths` into the folder `out`; `limit_bytes` > 0 keeps a sample of at most that size.

    The same request on unchanged files returns the corpus that is there; when they have changed it is made again,
    unless `expect` is the hash that it must have: then what is there stays. RequestError: nothing to read, everything
    was dropped, `out` holds something else, or the hash is another. MachineError: a full disk.
    """
    if limit_bytes < 0:
        raise RequestError(f"limit_bytes is {limit_bytes}; give a number of bytes, or 0 for no limit")
    out, roots = Path(out).expanduser().absolute(), read.roots(paths)
    request = {"inputs": [str(p) for p in roots], "seed": seed, "limit_bytes": limit_bytes}
    files.claim(out, "corpus", lambda folder: _request_of(folder) == request)
    state, count = _state_of(roots, out)
    if (out / SUMMARY).is_file() and (there := _reusable(out, state, progress)) and (
            expect in ("", there.hash)):
        return there
    try:
        with files.committed(out) as folder:
            progress.stage("read", count)
            entries = _read_into(folder / POOL, roots, (out, folder), progress, count)
            kept = _choose(entries, folder / POOL, limit_bytes, progress)
            _split(kept, entries, seed)
            counts = _write(kept, entries, folder)
            if expect and counts["hash"] != expect:
                raise RequestError(f"the files that {out} was made from have changed, and what was made of them would "
                                   "no longer fit; bring them back, choose another --out, or add --fresh")
            files.write_json(folder / SUMMARY, {**request, "state": state, **counts, "rules": filter.ranges()})
    except OSError as error:
        raise MachineError(f"could not write the corpus to {out}: {error.strerror or error}; "
                           "free some space or choose another --out") from error
    return Corpus.open(out)


def _read_into(pool: Path, roots: Sequence[Path], without: tuple[Path, ...], progress: Progress,
               count: int) -> list[_Entry]:
    """Read and judge every file; texts that pass the rules are appended to `pool`, equal ones once."""
    entries: list[_Entry] = []
    first: dict[str, _Entry] = {}
    size = 0
    with open(pool, "wb") as f:
        for item in read.documents(roots, without):
            if isinstance(item, read.Refusal):
                entry = _Entry("", item.path, "", "", item.bytes, item.rule, item.value)
            else:
                entry = _Entry(item.id, item.meta["path"], item.meta["kind"], item.licence, item.meta["bytes"])
                if broken := filter.judge(item.text, entry.kind):
                    entry.drop(*broken)
                elif entry.id not in first:
                    entry.start, first[entry.id] = f.tell(), entry
                    entry.signature = dedup.signature(ngrams.hashes(item.text, dedup.SHINGLE))
                    f.write(item.text.encode())
                else:
                    entry.start, entry.signature = first[entry.id].start, first[entry.id].signature
            entries.append(entry)
            size += entry.bytes
            progress.update(min(len(entries), count), megabytes=round(size / 1e6, 1))  # a file may be several documents
    return entries


def _choose(entries: list[_Entry], pool: Path, limit: int, progress: Progress) -> list[_Entry]:
    """Decide on the texts that passed the rules, in the order of their ids; returns those that are kept."""
    passed = sorted((e for e in entries if not e.rule), key=lambda e: (e.id, e.path))
    progress.stage("deduplicate", len(passed))
    kept: dict[int, _Entry] = {}
    total, full = 0, False
    with open(pool, "rb") as f:
        seen = dedup.Kept(lambda index: ngrams.hashes(_text(f, passed[index]), dedup.SHINGLE))
        for index, entry in enumerate(passed):
            before = passed[index - 1] if index else None
            progress.update(index + 1)
            if before and before.id == entry.id:
                if before.rule in ("", "exact_duplicate"):
                    entry.drop("exact_duplicate", 1.0, before.twin or before)
                else:
                    entry.drop(before.rule, before.value, before.twin)
            elif full or 0 < limit < total + entry.bytes:
                full = True
                entry.drop("over_limit", total + entry.bytes)
            elif twin := seen.twin(index, entry.signature):
                entry.drop("near_duplicate", round(twin[1], 4), kept[twin[0]])
            else:
                kept[index] = entry
                total += entry.bytes
    return list(kept.values())


def _text(pool: BinaryIO, entry: _Entry) -> str:
    pool.seek(entry.start)
    return pool.read(entry.bytes).decode()


def _split(kept: list[_Entry], entries: list[_Entry], seed: int) -> None:
    """Name each document's split by a hash of its id; where that leaves a split empty, by the rank of the hash."""
    if len(kept) < len(SPLITS):
        rules = Counter(e.rule for e in entries if e.rule).most_common(4)
        why = ", ".join(f"{count} by {rule}" for rule, count in rules)
        raise RequestError(f"{len(kept)} documents of {len(entries)} are left and a corpus needs at least {len(SPLITS)}"
                           + (f" (dropped: {why})" if why else "") + "; name more files")
    order = sorted(kept, key=lambda e: seed_of(seed, "split", e.id))
    for by_rank in (False, True):
        for rank, entry in enumerate(order):
            place = (rank + 0.5) / len(order) if by_rank else seed_of(seed, "split", entry.id) / 2**63
            entry.split = "test" if place < SHARE else "validation" if place < 2 * SHARE else "train"
        if by_rank and len(order) < 1 / SHARE:
            order[0].split, order[1].split = "test", "validation"
        if {e.split for e in order} == set(SPLITS):
            return


def _write(kept: list[_Entry], entries: list[_Entry], folder: Path) -> dict[str, Any]:
    """Write the splits and the ledger, remove the pool; returns the counts for the summary."""
    with ExitStack() as stack:
        pool = stack.enter_context(open(folder / POOL, "rb"))
        out = {split: stack.enter_context(open(folder / f"{split}.jsonl", "w", encoding="utf-8")) for split in SPLITS}
        for e in kept:
            facts = {"id": e.id, "path": e.path, "kind": e.kind, "licence": e.licence}
            out[e.split].write(line({**facts, "text": _text(pool, e)}))
        ledger = stack.enter_context(open(folder / LEDGER, "w", encoding="utf-8"))
        for e in sorted(entries, key=lambda e: (e.id, e.path)):
            ledger.write(line(e.row()))
    (folder / POOL).unlink()
    return {
        "hash": files.digest_bytes(*(f"{e.split} {e.id}" for e in kept)),
        "splits": _table(kept, "split"), "kinds": _table(kept, "kind"), "licences": _table(kept, "licence"),
        "seen": {"documents": len(entries), "bytes": sum(e.bytes for e in entries)},
        "dropped": _table([e for e in entries if e.rule], "rule"),
    }


def _table(entries: list[_Entry], field: str) -> dict[str, dict[str, int]]:
    """{value: {"documents": n, "bytes": n}} over one field, largest first."""
    table: dict[str, dict[str, int]] = {}
    for e in entries:
        row = table.setdefault(getattr(e, field), {"documents": 0, "bytes": 0})
        row["documents"] += 1
        row["bytes"] += e.bytes
    return dict(sorted(table.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def _state_of(roots: Sequence[Path], out: Path) -> tuple[str, int]:
    """A hash of our code and of the names, sizes and times of the inputs (equal: nothing to do), and their number."""
    facts = [p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))]
    for root in roots:
        for path, refusal, _ in read.walk(root, (out,)):
            stamp = path.lstat() if not refusal else None
            facts.append(repr((os.fsencode(path), refusal, stamp and (stamp.st_size, stamp.st_mtime_ns))).encode())
    return files.digest_bytes(*facts), len(facts)


def _request_of(folder: Path) -> dict[str, Any] | None:
    """The request that a corpus folder answers; None when it is no corpus."""
    try:
        summary = files.read_json(folder / SUMMARY)
        return {key: summary[key] for key in ("inputs", "seed", "limit_bytes")}
    except (RequestError, KeyError, TypeError):
        return None


def _reusable(out: Path, state: str, progress: Progress) -> Corpus | None:
    """The corpus that is there, when it is whole, and neither its inputs nor our rules have changed since."""
    try:
        there = Corpus.open(out)
    except MachineError as error:
        progress.warn(f"{error}; curating again")
        return None
    if there.summary["state"] == state:
        progress.say(f"nothing has changed: using the corpus in {out}")
        return there
    progress.say(f"the inputs or the rules have changed: curating {out} again")
    return None
