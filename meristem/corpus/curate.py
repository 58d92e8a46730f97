"""Raw files to a corpus folder: read, judge, drop duplicates, split; every decision goes into the ledger.

    corpus = curate(find.standard_library(), Path("runs/corpus"))
    meristem curate ~/notes --out runs/corpus                       # the same from the shell

The result is a pure function of the documents, whatever the order they are read in: they are taken in the order of
their ids, which are hashes. What was read and judged lies in segments on disk (`spool`), so memory is flat - only texts
that share a band with another one are remembered, 2 kB each - and a run that was killed goes on behind the last one.
"""
import functools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.faults import point
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.corpus import dedup, engine, filter, ngrams, read, sheet, twins, wire
from meristem.corpus.formats.base import Record
from meristem.corpus.spool import Row, Segment, Spool
from meristem.corpus.stages import base as stages_base
from meristem.corpus.stages.personal import hidden
from meristem.corpus.store import LEDGER, SPLITS, SUMMARY, Corpus, line

SHARE = 0.05                            # of the documents for test, and the same for validation
SEGMENT = 128 << 20                     # bytes of text between two places where a killed run can go on
BATCH = 1 << 20                         # bytes of records that are worked on at once
RECORDS = 256                           # and their number
PARALLEL = 64 << 20                     # bytes of input from which other processes pay for their start
EXAMPLES, SHOWN = 3, 200                # of what each rule dropped, and their characters, in the summary
Work = list[tuple[Row, bytes | None, np.ndarray | None]]
Place = tuple[int, int]


def curate(paths: Sequence[Path], out: Path, *, seed: int = 0, limit_bytes: int = 0, expect: str = "",
           stages: Sequence[str] = stages_base.DEFAULT, text: str = "", workers: int = 0, where: str = "",
           progress: Progress = SILENT) -> Corpus:
    """Curate the files below `paths` into the folder `out`; `limit_bytes` > 0 keeps a sample of at most that size.

    `stages` names files of corpus/stages with their settings, in order; `text` is the column of tables; `workers` 0
    takes every core for large inputs; `where` is the engine (corpus/engine.py). The same request on
    unchanged files returns the corpus that is there; when they have changed it is made again, unless `expect` is the
    hash that it must have: then what is there stays.
    RequestError: nothing to read, everything was dropped, `out` holds something else, or the hash is another.
    MachineError: a full disk.
    """
    if limit_bytes < 0:
        raise RequestError(f"limit_bytes is {limit_bytes}; give a number of bytes, or 0 for no limit")
    out, roots = Path(out).expanduser().absolute(), read.roots(paths)
    work = out.with_name(f".work-{out.name}")
    engine.check(where)
    functions = stages_base.stages_of(stages)
    request: dict[str, Any] = {"inputs": [str(p) for p in roots], "seed": seed, "limit_bytes": limit_bytes}
    more = {"stages": list(stages), "text": text}
    request |= {} if more == {"stages": list(stages_base.DEFAULT), "text": ""} else more
    with files.claimed(out, "corpus", lambda folder: _request_of(folder) == request):
        state, size = _state_of(roots, (out, work), functions)
        if (out / SUMMARY).is_file() and (there := _reusable(out, state, progress)) and (
                expect in ("", there.hash)):
            return there
        workers = workers or (len(os.sched_getaffinity(0)) if size >= PARALLEL else 1)
        spool: Spool | None = None
        try:
            spool = Spool(work, files.digest_bytes(state, repr(more)))
            if spool.segments:
                progress.say(f"going on where an earlier run was stopped: {len(spool.segments)} segments are done")
            with files.committed(out) as folder:
                reading = _Reading(roots, (out, work, folder), text, spool.position)
                progress.stage("read", size)
                _read_into(spool, reading, functools.partial(process, stages=functions), workers, where, progress)
                counts = _choose(spool, folder, seed, limit_bytes, workers, where, progress)
                if expect and counts["hash"] != expect:
                    raise RequestError(f"the files that {out} was made from have changed, and what was made of them "
                                       "would no longer fit; bring them back, choose another --out, or add --fresh")
                summary = {**request, "state": state, **counts, "rules": filter.ranges()}
                files.write_json(folder / SUMMARY, summary)
                (folder / sheet.NAME).write_text(sheet.text(summary), encoding="utf-8")
            spool.remove()
        except KeyboardInterrupt:                              # as after a kill: what is read stays for the next run
            raise
        except OSError as error:
            if spool:
                spool.remove()
            raise MachineError(f"could not write the corpus to {out}: {error.strerror or error}; "
                               "free some space or choose another --out") from error
        except BaseException:
            if spool:
                spool.remove()
            raise
        return Corpus.open(out)


class _Reading:
    """The records of the inputs in batches from a position on, and how far into their bytes that is."""

    def __init__(self, roots: Sequence[Path], without: tuple[Path, ...], text: str, start: Place) -> None:
        self.roots, self.without, self.text, self.start = roots, without, text, start
        self.done = 0                   # bytes of files behind us
        self.ends: list[Place] = []     # the position behind each batch, until it is worked on
        self.file: BinaryIO | None = None

    def batches(self) -> Iterator[list[Record | read.Refusal]]:
        """Batches in the order of the input; `ends` has one position more for each."""
        batch: list[Record | read.Refusal] = []
        size = 0
        for place, item in self._records():
            batch.append(item)
            size += len(item.raw) if isinstance(item, Record) else 0
            if size >= BATCH or len(batch) >= RECORDS:
                self.ends.append(place)
                yield batch
                batch, size = [], 0
        if batch:
            self.ends.append(place)
            yield batch

    def _records(self) -> Iterator[tuple[Place, Record | read.Refusal]]:
        first, skip = self.start
        number = -1
        for root in self.roots:
            options = read.options_of(root, self.text)
            for path, refusal, terms in read.walk(root, self.without):
                number += 1
                if number >= first:
                    items = iter([refusal]) if refusal else read.records(path, read.shown(path, root), terms, options,
                                                                         self._opened)
                    for count, item in enumerate(items, start=1):
                        if number > first or count > skip:
                            yield (number, count), item
                self.file = None
                self.done += _size(path)

    def _opened(self, f: BinaryIO) -> None:
        self.file = f

    @property
    def bytes(self) -> int:
        """Bytes of the input behind us, with those of the file that is being read."""
        return self.done + (self.file.tell() if self.file and not self.file.closed else 0)


def process(records: list[Record | read.Refusal], stages: Sequence[stages_base.Function]) -> Work:
    """Rows of the ledger with texts and signatures: decode, extract and judge a batch. Pure: any engine may run it."""
    out: Work = []
    documents = []
    for item in (found for r in records for found in ([r] if isinstance(r, read.Refusal) else read.convert(r))):
        if isinstance(item, read.Refusal):
            row = {"id": "", "path": item.path, "kind": "", "licence": "", "bytes": item.bytes}
            out.append(({**row, "rule": item.rule, "value": item.value}, None, None))
        else:
            documents.append(item)
    batch: stages_base.Batch = {
        "text": [d.text for d in documents], "kind": [d.meta["kind"] for d in documents],
        "path": [d.meta["path"] for d in documents], "licence": [d.licence for d in documents],
        "rule": [""] * len(documents), "value": [0.0] * len(documents),
        "facts": [{k: v for k, v in d.meta.items() if k not in ("path", "kind", "bytes")} for d in documents]}
    for stage in stages:
        batch = stage(batch)
    for n, d in enumerate(documents):
        text, facts, key, size = batch["text"][n], batch["facts"][n], d.id, d.meta["bytes"]
        raw = text.encode()
        if text is not d.text and text != d.text:
            key, size, facts = files.digest_bytes(raw), len(raw), {**facts, "was": d.id}
        row = {"id": key, "path": d.meta["path"], "kind": d.meta["kind"], "licence": d.licence, "bytes": size}
        row |= {"facts": facts} if facts else {}
        if batch["rule"][n]:
            broken = {"rule": batch["rule"][n], "value": batch["value"][n], "head": text[:SHOWN]}
            out.append(({**row, **broken}, None, None))
        else:
            shingles = ngrams.hashes(text, dedup.SHINGLE)
            out.append((row, raw, dedup.signature(shingles) if len(shingles) else None))
    return out


def _read_into(spool: Spool, reading: _Reading, work: functools.partial[Work], workers: int, where: str,
               progress: Progress) -> None:
    """Read and judge everything that is not in a segment yet."""
    results = engine.run(work, reading.batches(), workers, where, wire.RECORDS)
    documents, size, dropped, began = 0, 0, Counter[str](), time.monotonic()
    more = True
    while more:
        with spool.segment() as segment:
            more = False
            for result in results:
                _add(segment, result)
                segment.position = reading.ends.pop(0)
                documents, size = documents + len(result), size + sum(row["bytes"] for row, _, _ in result)
                dropped.update(row["rule"] for row, _, _ in result if "rule" in row)
                seconds = max(1e-3, time.monotonic() - began)
                why = ", ".join(f"{rule} {count / documents:.1%}" for rule, count in dropped.most_common(3))
                progress.update(reading.bytes, documents=documents, megabytes=round(size / 1e6, 1),
                                documents_per_second=round(documents / seconds),
                                megabytes_per_second=round(size / 1e6 / seconds, 1), dropped=why or None)
                if segment.size >= SEGMENT:
                    more = True
                    break
        point("curate.segment")


def _add(segment: Segment, result: Work) -> None:
    for row, text, signature in result:
        segment.add(row, text, signature)


class _Writer:
    """Writes splits and ledger as decisions fall, and counts for the summary."""

    def __init__(self, stack: ExitStack, folder: Path, seed: int) -> None:
        self.seed, self.hash = seed, files.Digest()
        names = {split: f"{split}.jsonl" for split in SPLITS}
        self.out = {split: stack.enter_context((folder / name).open("w", encoding="utf-8"))
                    for split, name in names.items()}
        self.ledger = stack.enter_context((folder / LEDGER).open("w", encoding="utf-8"))
        self.tables: dict[str, dict[str, dict[str, int]]] = {
            field: {} for field in ("split", "kind", "licence", "rule")}
        self.seen = {"documents": 0, "bytes": 0}
        self.examples: dict[str, list[Row]] = {}

    def keep(self, row: Row, text: str, split: str) -> None:
        """A document that stays."""
        facts = {key: row[key] for key in ("id", "path", "kind", "licence")}
        self.out[split].write(line({**facts, **row.get("facts", {}), "text": text}))
        self.hash.add(f"{split} {row['id']}")
        self._tell({**row, "split": split}, {"verdict": "kept", "split": split})
        for field, value in (("split", split), ("kind", row["kind"]), ("licence", row["licence"])):
            self._count(field, value, row["bytes"])

    def drop(self, row: Row, rule: str, value: float | str, twin: Row | None, head: str) -> None:
        """A document or file that does not."""
        witness = {"witness": twin["id"], "witness_path": twin["path"]} if twin else {}
        self._tell(row, {"verdict": "dropped", "rule": rule, "value": value, **witness})
        self._count("rule", rule, row["bytes"])
        if len(shown := self.examples.setdefault(rule, [])) < EXAMPLES:
            shown.append({"path": row["path"], "value": value, **witness, **({"text": hidden(head)} if head else {})})

    def _tell(self, row: Row, decision: dict[str, Any]) -> None:
        facts = {key: row[key] for key in ("id", "path", "kind", "licence", "bytes")}
        self.ledger.write(line({**facts, **row.get("facts", {}), **decision}))
        self.seen["documents"] += 1
        self.seen["bytes"] += row["bytes"]

    def _count(self, field: str, value: str, size: int) -> None:
        row = self.tables[field].setdefault(value, {"documents": 0, "bytes": 0})
        row["documents"] += 1
        row["bytes"] += size

    def counts(self) -> dict[str, Any]:
        """For the summary; tables with the largest first."""
        tables = {field: dict(sorted(table.items(), key=lambda item: (-item[1]["bytes"], item[0])))
                  for field, table in self.tables.items()}
        return {"hash": self.hash.hex(), "splits": tables["split"], "kinds": tables["kind"],
                "licences": tables["licence"], "seen": self.seen, "dropped": tables["rule"],
                "examples": dict(sorted(self.examples.items()))}


def _choose(spool: Spool, folder: Path, seed: int, limit: int, workers: int, where: str,
            progress: Progress) -> dict[str, Any]:
    """Decide in the order of the ids and write; a second time where hashing leaves a split of a small corpus empty."""
    total = sum(1 for _ in spool.rows())
    near = twins.find(spool, workers, where)
    ranked: dict[str, str] = {}
    while True:
        progress.stage("deduplicate", total)
        with ExitStack() as stack:
            writer = _Writer(stack, folder, seed)
            kept = _decide(spool, writer, limit, ranked, near, progress)
        counts = writer.counts()
        if ranked or len(counts["splits"]) == len(SPLITS):
            return counts
        if sum(kept.values()) < len(SPLITS):
            rules = sorted(counts["dropped"].items(), key=lambda item: -item[1]["documents"])[:4]
            why = ", ".join(f"{row['documents']} by {rule}" for rule, row in rules)
            raise RequestError(f"{sum(kept.values())} documents of {total} are left and a corpus needs at least "
                               f"{len(SPLITS)}" + (f" (dropped: {why})" if why else "") + "; name more files")
        ranked = _by_rank(folder, seed)


def _decide(spool: Spool, writer: _Writer, limit: int, ranked: dict[str, str], near: dict[int, dedup.Twin],
            progress: Progress) -> Counter[str]:
    """Every row in the order of its id to the writer; returns how many were kept by split."""
    kept: Counter[str] = Counter()
    wanted = {twin.of for twin in near.values()}
    rows: dict[int, Row] = {}                                  # those that are somebody's twin, by their number
    total, full = 0, False
    before: tuple[str, str, float | str, Row | None, str] = ("", "", 0.0, None, "")    # id, and what a copy is told
    for index, row in enumerate(spool.rows()):
        progress.update(index + 1)
        if "rule" in row:
            writer.drop(row, row["rule"], row["value"], None, row.get("head", ""))
            continue
        if before[0] == row["id"]:
            writer.drop(row, *before[1:])
            continue
        if full or 0 < limit < total + row["bytes"]:
            full = True
            before = (row["id"], "over_limit", total + row["bytes"], None, "")
        elif twin := near.get(index):
            before = (row["id"], twin.rule, round(twin.similarity, 4), rows[twin.of], spool.text(row)[:SHOWN])
        else:
            text = spool.text(row)
            split = ranked.get(row["id"]) or split_of(writer.seed, row["id"])
            writer.keep(row, text, split)
            kept[split] += 1
            total += row["bytes"]
            if index in wanted:
                rows[index] = row
            before = (row["id"], "exact_duplicate", 1.0, row, text[:SHOWN])
            continue
        writer.drop(row, *before[1:])
    return kept


def split_of(seed: int, key: str) -> str:
    """The split of a document by the hash of the seed and its id."""
    return _split(seed_of(seed, "split", key) / 2**63)


def _split(place: float) -> str:
    """The split of a place between 0 and 1."""
    return "test" if place < SHARE else "validation" if place < 2 * SHARE else "train"


def _by_rank(folder: Path, seed: int) -> dict[str, str]:
    """The split of each kept document of a small corpus by the rank of its hash, so that none is empty."""
    ids = [document["id"] for split in SPLITS for document in _lines(folder / f"{split}.jsonl")]
    order = sorted(ids, key=lambda key: seed_of(seed, "split", key))
    out = {key: _split((rank + 0.5) / len(order)) for rank, key in enumerate(order)}
    if len(order) < 1 / SHARE:
        out |= {order[0]: "test", order[1]: "validation"}
    return out


def _lines(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as f:
        yield from map(json.loads, f)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if not path.is_dir() else 0
    except OSError:
        return 0


def _state_of(roots: Sequence[Path], without: tuple[Path, ...],
              stages: Sequence[stages_base.Function]) -> tuple[str, int]:
    """A hash of our code and of the names, sizes and times of the inputs (equal: nothing to do), and their bytes.

    A file that a stage reads (evaluation items) counts by its content.
    """
    state, size = files.Digest(), 0
    for p in sorted(Path(__file__).parent.rglob("*.py")):
        state.add(p.read_bytes())
    for stage in stages:
        named = [Path(value).expanduser() for value in vars(stage).values() if isinstance(value, str) and value]
        for path in named:
            state.add(files.digest(path) if path.is_file() else "")
    for root in roots:
        for path, refusal, _ in read.walk(root, without):
            stamp = path.lstat() if not refusal else None
            state.add(repr((os.fsencode(path), refusal, stamp and (stamp.st_size, stamp.st_mtime_ns))).encode())
            size += stamp.st_size if stamp else 0
    return state.hex(), size


def _request_of(folder: Path) -> dict[str, Any] | None:
    """The request that a corpus folder answers; None when it is no corpus."""
    try:
        summary = files.read_json(folder / SUMMARY)
        asked = {key: summary[key] for key in ("inputs", "seed", "limit_bytes")}
        return asked | {key: summary[key] for key in ("stages", "text") if key in summary}
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
