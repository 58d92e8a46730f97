"""Batches as Arrow record batches in bytes: what engines other than ours carry between machines.

A `Wire` packs what a function is given and what it returns; `over(wire, function)` is the function on bytes, which any
engine may run anywhere. Records go as columns name, raw, media, licence, kind, meta, size, rule, value; a result as
columns row, text, signature (corpus/curate.py); JSON where a column is a mapping.

    function = over(RECORDS, process); unpacked = RECORDS.returned(function(RECORDS.pack(batch)))
"""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.corpus.formats.base import Record, Refusal


@dataclass(frozen=True)
class Wire:
    """How a function's argument and its result travel."""

    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]
    give: Callable[[Any], bytes]
    returned: Callable[[bytes], Any]


@dataclass(frozen=True)
class Over:
    """A function on packed batches."""

    wire: Wire
    function: Callable[[Any], Any]

    def __call__(self, raw: bytes) -> bytes:
        return self.wire.give(self.function(self.wire.unpack(raw)))


def table(columns: dict[str, Sequence[Any]], types: dict[str, str]) -> bytes:
    """Columns as one Arrow record batch in its stream format."""
    pa = arrow()
    batch = pa.RecordBatch.from_arrays([pa.array(columns[name], getattr(pa, kind)()) for name, kind in types.items()],
                                       list(types))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def columns(raw: bytes) -> dict[str, list[Any]]:
    """The columns of `table`."""
    found: dict[str, list[Any]] = arrow().ipc.open_stream(raw).read_all().to_pydict()
    return found


def arrow() -> Any:
    """pyarrow; RequestError when it is not installed."""
    try:
        return import_module("pyarrow")
    except ImportError:
        raise RequestError("other engines carry Arrow record batches: pip install pyarrow") from None


IN = {"name": "string", "raw": "binary", "media": "string", "licence": "string", "kind": "string", "meta": "string",
      "size": "int64", "rule": "string", "value": "string"}
OUT = {"row": "string", "text": "binary", "signature": "binary"}


def _records(batch: list[Record | Refusal]) -> bytes:
    rows = [(r.path, b"", "", "", "", "{}", r.bytes, r.rule, json.dumps(r.value)) if isinstance(r, Refusal) else
            (r.name, r.raw, r.media, r.licence, r.kind, json.dumps(r.meta), 0, "", "0") for r in batch]
    return table(dict(zip(IN, map(list, zip(*rows, strict=True)), strict=True)), IN)


def _records_back(raw: bytes) -> list[Record | Refusal]:
    c = columns(raw)
    return [Refusal(name, size, rule, json.loads(value)) if rule else
            Record(name, raw, media, licence, kind, json.loads(meta))
            for name, raw, media, licence, kind, meta, size, rule, value in zip(*(c[key] for key in IN), strict=True)]


def _results(work: list[tuple[dict[str, Any], bytes | None, np.ndarray | None]]) -> bytes:
    return table({"row": [json.dumps(row) for row, _, _ in work], "text": [text for _, text, _ in work],
                  "signature": [None if s is None else s.tobytes() for _, _, s in work]}, OUT)


def _results_back(raw: bytes) -> list[tuple[dict[str, Any], bytes | None, np.ndarray | None]]:
    c = columns(raw)
    return [(json.loads(row), text, None if s is None else np.frombuffer(s, np.uint32))
            for row, text, s in zip(*(c[key] for key in OUT), strict=True)]


RECORDS = Wire(_records, _records_back, _results, _results_back)
