"""Which texts of a spool are near duplicates of which: the groups that meet, judged on any engine.

A text is only ever compared with texts that share a band with it, so a group of texts linked by shared bands is judged
alone, in the order of its ids, and the result does not depend on how groups are dealt out: distributed and embedded
deduplication agree document for document.

    twins = find(spool, workers=4, where="ray")             # {number of a row: the Twin that says of which row}
"""
from collections.abc import Iterator

import numpy as np

from meristem.corpus import dedup, engine
from meristem.corpus.spool import Row, Spool
from meristem.corpus.wire import Wire, columns, table

BYTES, MEMBERS = 1 << 20, 256           # of texts that are judged in one call, and their number
Groups = list[list[dedup.Member]]
Found = list[dedup.Twin]


def find(spool: Spool, workers: int = 1, where: str = "") -> dict[int, dedup.Twin]:
    """The twin of each row that has one; rows are numbered as `spool.rows()` gives them. Only rows that meet another
    are held, about 300 bytes each."""
    spool.meeting()
    members: dict[int, list[tuple[int, Row]]] = {}
    before = ""
    for number, row in enumerate(spool.rows()):
        if "rule" not in row and row["id"] != before:
            before = row["id"]
            if (group := spool.group(row)) >= 0:
                members.setdefault(group, []).append((number, {
                    "at": row["at"], "segment": row["segment"], "syntax": row.get("facts", {}).get("syntax", "0")}))
    several = (some for some in members.values() if len(some) > 1)
    batches = _batches(spool, several, where not in ("", "local"))
    done = engine.run(dedup.decide, batches, workers, where, WIRE)
    return {twin.number: twin for found in done for twin in found}


def _batches(spool: Spool, groups: Iterator[list[tuple[int, Row]]], carried: bool) -> Iterator[Groups]:
    """Groups that are worth one call; with their texts where the engine may run on other machines."""
    batch: Groups = []
    size = count = 0
    for some in groups:
        batch.append([(number, spool.signature(row), spool.text(row) if carried else spool.place(row),
                       int(row["syntax"][:16], 16)) for number, row in some])
        size, count = size + sum(row["at"][1] for _, row in some), count + len(some)
        if size >= BYTES or count >= MEMBERS:
            yield batch
            batch, size, count = [], 0, 0
    if batch:
        yield batch


IN = {"group": "int64", "number": "int64", "signature": "binary", "text": "string", "tree": "uint64"}
OUT = {"number": "int64", "of": "int64", "similarity": "float64", "rule": "string"}


def _pack(groups: Groups) -> bytes:
    rows = [(n, number, own.tobytes(), text, tree) for n, group in enumerate(groups)
            for number, own, text, tree in group]
    return table(dict(zip(IN, map(list, zip(*rows, strict=True)), strict=True)), IN)


def _unpack(raw: bytes) -> Groups:
    found, out = columns(raw), Groups()
    for n, number, own, text, tree in zip(*(found[key] for key in IN), strict=True):
        if n == len(out):
            out.append([])
        out[n].append((number, np.frombuffer(own, np.uint32), text, tree))
    return out


def _give(found: Found) -> bytes:
    return table({key: [vars(twin)[key] for twin in found] for key in OUT}, OUT)


def _returned(raw: bytes) -> Found:
    found = columns(raw)
    return [dedup.Twin(*row) for row in zip(*(found[key] for key in OUT), strict=True)]


WIRE = Wire(_pack, _unpack, _give, _returned)
