"""Take back what a rule dropped: the corpus becomes its documents and those, and nothing else changes.

    meristem curate --undo c4_bracket --out runs/web            # in place; the same curate command brings the rule back

Undoing is a union of sets: documents that the rule dropped are read again from the inputs, whose ids must be the same,
and go through the stages with that rule waived. What another rule drops then stays out by that rule; near duplicates
are not looked for again. Their ledger lines say `undone`. Exact duplicates are in the corpus already, and what was
refused as a file holds no document: neither can be undone. The texts that come back are held in memory.
"""
import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from meristem.core import files
from meristem.core.errors import RequestError, nearest
from meristem.core.types import Document
from meristem.corpus import read, sheet
from meristem.corpus.curate import split_of
from meristem.corpus.stages import base
from meristem.corpus.store import LEDGER, SPLITS, SUMMARY, Corpus, line

Row = dict[str, Any]


def undo(corpus: Corpus, rules: Sequence[str]) -> Corpus:
    """The corpus, in its folder, with the documents that `rules` dropped. RequestError: a rule dropped none, or what it
    dropped cannot be read again."""
    if "examples" not in corpus.summary:
        raise RequestError(f"{corpus.folder} is of rows or pictures, whose rules are not undone; curate it again")
    dropped = [row for row in corpus.ledger() if row["verdict"] == "dropped" and row["rule"] in rules]
    for rule in rules:
        there = [row for row in dropped if row["rule"] == rule]
        if not there:
            raise RequestError(f"{rule!r} dropped nothing from {corpus.folder}; "
                               f"{nearest(rule, corpus.summary['dropped'])}")
        if rule == "exact_duplicate":
            raise RequestError("an exact duplicate has the bytes of a document that is in the corpus: nothing to undo")
        if not there[0]["id"]:
            raise RequestError(f"{rule} refused files and records that hold no document, so there is nothing to bring "
                               "back; docs/curation.md says what each refusal means")
    found = list(_again(corpus, dropped))
    if len(found) < len(dropped):
        raise RequestError(f"{len(dropped) - len(found)} of {len(dropped)} documents cannot be read again from "
                           f"{', '.join(corpus.summary['inputs'][:3])}: moved or changed since")
    back = sorted((_judged(corpus, row, document, rules) for row, document in found), key=_place)
    _write(corpus, back, set(rules))
    return Corpus.open(corpus.folder)


def _again(corpus: Corpus, dropped: list[Row]) -> Iterator[tuple[Row, Document]]:
    """Each dropped row with its document, in the order of the inputs."""
    wanted = {(row["path"], row.get("was", row["id"])): row for row in dropped}
    names = {name for path, _ in wanted for name in (path, path.rpartition("#")[0])}
    for root in read.roots([Path(name) for name in corpus.summary["inputs"] if Path(name).exists()]):
        options = read.options_of(root, corpus.summary.get("text", ""))
        for path, refusal, terms in read.walk(root, (corpus.folder,)):
            if refusal:
                continue
            for record in read.records(path, read.shown(path, root), terms, options):
                if isinstance(record, read.Refusal) or record.name not in names:
                    continue
                for item in read.convert(record):
                    if not isinstance(item, read.Refusal) and (row := wanted.pop((item.meta["path"], item.id), None)):
                        yield row, item


def _judged(corpus: Corpus, row: Row, document: Document, rules: Sequence[str]) -> Row:
    """The row of a document that comes back, with its text; or dropped by another rule, without."""
    batch = {**base.batch_of([document.text], row["kind"]), "path": [row["path"]], "licence": [row["licence"]],
             "facts": [{key: value for key, value in document.meta.items() if key not in ("path", "kind", "bytes")}]}
    for stage in base.stages_of(corpus.summary.get("stages", base.DEFAULT)):
        batch = stage(batch)
        if batch["rule"][0] in rules:
            batch = {**batch, "rule": [""], "value": [0.0]}
    text, facts = batch["text"][0], batch["facts"][0]
    raw = text.encode()
    was = {"was": document.id} if text != document.text else {}
    out = {"id": files.digest_bytes(raw), "path": row["path"], "kind": row["kind"], "licence": row["licence"],
           "bytes": len(raw), **facts, **was}
    if batch["rule"][0]:
        return {**out, "verdict": "dropped", "rule": batch["rule"][0], "value": batch["value"][0],
                "undone": row["rule"]}
    return {**out, "verdict": "kept", "split": split_of(corpus.summary["seed"], out["id"]), "undone": row["rule"],
            "text": text}


def _write(corpus: Corpus, back: list[Row], rules: set[str]) -> None:
    """The folder anew: splits, ledger, summary and data sheet."""
    summary = corpus.summary
    kept = {row["id"]: row for row in reversed(back) if row["verdict"] == "kept"}       # a text once, as ever
    for row in back:
        if row["verdict"] == "kept" and kept[row["id"]] is not row:
            row |= {"verdict": "dropped", "rule": "exact_duplicate", "value": 1.0, "witness": row["id"],
                    "witness_path": kept[row["id"]]["path"]}
    tables: dict[str, dict[str, dict[str, int]]] = {key: {} for key in ("splits", "kinds", "licences", "dropped")}
    digest = files.Digest()
    with files.committed(corpus.folder) as folder:
        for split in SPLITS:
            new = ({key: row[key] for key in row if key not in ("verdict", "split", "bytes", "undone")}
                   for row in sorted(kept.values(), key=_place) if row["split"] == split)
            with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as f:
                for row in heapq.merge(_lines(corpus.folder / f"{split}.jsonl"), new, key=_place):
                    f.write(line(row))
        old = (row for row in corpus.ledger() if row["verdict"] == "kept" or row["rule"] not in rules)
        told = ({key: value for key, value in row.items() if key != "text"} for row in back)
        with (folder / LEDGER).open("w", encoding="utf-8") as f:
            for row in heapq.merge(old, told, key=_place):
                f.write(line(row))
                fields = (("splits", "split"), ("kinds", "kind"), ("licences", "licence")) \
                    if row["verdict"] == "kept" else (("dropped", "rule"),)
                for table, key in fields:
                    count = tables[table].setdefault(row[key], {"documents": 0, "bytes": 0})
                    count["documents"] += 1
                    count["bytes"] += row["bytes"]
                if row["verdict"] == "kept":
                    digest.add(f"{row['split']} {row['id']}")
        examples = {rule: some for rule, some in summary["examples"].items() if rule in tables["dropped"]}
        undone = sorted({*summary.get("undone", ()), *rules})
        new_summary = {**summary, **tables, "hash": digest.hex(), "examples": examples, "undone": undone,
                       "state": files.digest_bytes(summary["state"], *undone)}
        files.write_json(folder / SUMMARY, new_summary)
        (folder / sheet.NAME).write_text(sheet.text(new_summary), encoding="utf-8")


def _lines(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as f:
        yield from map(json.loads, f)


def _place(row: Row) -> tuple[str, str]:
    return row["id"], row["path"]
