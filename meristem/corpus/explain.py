"""Why a document is in a corpus, or is not: its ledger line in words, and the decision made again from the source.

    print(explain(Corpus.open(folder), "notes/a.md"))           # by path, or by the first characters of an id

When the input is still there the document is read again: its id must be the same, a rule's value is measured anew, and
a near duplicate is compared with the text of its witness, which is in the corpus.
"""
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError, nearest
from meristem.core.types import Document
from meristem.corpus import dedup, filter, ngrams, read
from meristem.corpus.stages.base import batch_of, stages_of
from meristem.corpus.stages.personal import hidden
from meristem.corpus.stages.syntax import tree_hash
from meristem.corpus.store import SPLITS, Corpus

HEAD = 400                              # characters of a text that are shown
MOST = 20                               # ledger lines that one answer explains


def explain(corpus: Corpus, what: str) -> list[dict[str, Any]]:
    """The ledger lines of a path (or its end) or an id (or its start), each with `why`; RequestError: there is none."""
    rows = [row for row in corpus.ledger() if _is(row, what)]
    if not rows:
        raise RequestError(f"no document {what!r} in the ledger of {corpus.folder}; "
                           f"{nearest(what, [row['path'] for row in corpus.ledger()][:5000])}")
    return [{**row, "why": _why(corpus, row)} for row in rows[:MOST]]


def told(rows: list[dict[str, Any]]) -> str:
    """What `explain` found, for people."""
    return "\n\n".join("\n  ".join([f"{row['path']}  {row['id']}", *row["why"]]) for row in rows)


def _is(row: dict[str, Any], what: str) -> bool:
    return row["path"] == what or row["path"].endswith(f"/{what}") or (len(what) >= 6 and row["id"].startswith(what))


def _why(corpus: Corpus, row: dict[str, Any]) -> list[str]:
    """The decision in sentences."""
    out = [f"{row['bytes']:,} bytes of {row['kind'] or 'no text'}, licence {row['licence'] or 'none'}"]
    if row["verdict"] == "kept":
        return [*out, f"kept, in {row['split']}.jsonl"]
    out.append(f"dropped by {row['rule']}: {row['value']}")
    bound = corpus.summary["rules"].get(row["rule"], {})
    if not isinstance(bound, dict):
        out.append(f"the rule's bound: {bound}")
    elif allowed := bound.get(row["kind"]):
        measure = {rule.name: rule for rule in filter.RULES if row["kind"] in rule.kinds}[row["rule"]]
        low, high = allowed
        out.append(f"the rule measures: {(measure.measure.__doc__ or '').strip()} "
                   f"Allowed: {low} to {'anything' if high is None else high} ({measure.source})")
    if "witness_path" not in row and "witness" in row:
        out.append(f"the evaluation item that it holds: {row['witness']}")
    if "witness_path" in row:
        out.append(f"the document kept for it: {row['witness_path']}  {row['witness']}")
    if row["kind"] == "labelled":                              # a row of a file, a picture, a sound
        return out
    source = _read_again(corpus, row) if row["id"] else None
    if source is None:
        return [*out, "the source is no longer there to check the decision again"] if row["id"] else out
    out.append(f"read again: {_again(corpus, row, source)}")
    if spans := row.get("facts", row).get("spans"):
        out.append("taken out: " + ", ".join(f"{kind} at {start} to {stop} (hash {piece}...)"
                                             for kind, start, stop, piece in spans))
    return [*out, f"it begins: {hidden(source.text[:HEAD])!r}"]


def _again(corpus: Corpus, row: dict[str, Any], source: Document) -> str:
    """What deciding again gives."""
    batch = {**batch_of([source.text], row["kind"]), "path": [row["path"]], "licence": [row["licence"]],
             "facts": [{key: value for key, value in source.meta.items() if key not in ("path", "kind", "bytes")}]}
    for stage in stages_of(corpus.summary.get("stages", ("rules",))):
        batch = stage(batch)
    text, rule, value = batch["text"][0], batch["rule"][0], batch["value"][0]
    if "witness_path" not in row or rule:
        return f"{rule or 'passes the rules'}" + (f": {value}" if rule else "")
    twin = next((d for split in SPLITS for d in corpus.documents(split) if d.id == row["witness"]), None)
    if twin is None:
        return f"the witness is not in the corpus: {row['witness']}"
    if row["rule"] == "exact_duplicate":
        return f"the same bytes as the witness: {twin.text == text}"
    if row["rule"] == "same_syntax":
        return f"the same syntax tree as the witness: {tree_hash(twin.text) == tree_hash(text)}"
    a, b = (np.unique(ngrams.hashes(t, dedup.SHINGLE)) for t in (text, twin.text))
    return f"{dedup.jaccard(a, b):.4f} of their 5-word shingles are the same (a duplicate from {dedup.THRESHOLD})"


def _read_again(corpus: Corpus, row: dict[str, Any]) -> Document | None:
    """The document from the corpus's inputs, when it is still there and the same."""
    wanted = row.get("was", row["id"])
    for name in corpus.summary["inputs"]:
        root = Path(name)
        first, _, rest = row["path"].partition("/")
        if first.split("#")[0].split("@")[0] != root.name or not root.exists():
            continue
        inside = rest.split("#")[0]
        path = root / inside if inside else root
        while not path.exists() and path != root:              # a member of an archive: the archive
            path = path.parent
        options = read.options_of(root, corpus.summary.get("text", ""))
        for record in read.records(path, read.shown(path, root), options=options):
            if not isinstance(record, read.Refusal) and row["path"].startswith(record.name):
                for item in read.convert(record):
                    if not isinstance(item, read.Refusal) and item.id == wanted:
                        return item
    return None
