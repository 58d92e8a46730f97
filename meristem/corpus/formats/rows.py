"""Rows of a table to records: which column is the text, and what else of a row travels with it.

Used by jsonl, csv and parquet. A row without a text is a refusal that names the columns there are.
"""
from collections.abc import Mapping
from typing import Any

from meristem.corpus.formats.base import LARGEST, Options, Record, Refusal

TEXTS = ("text", "content", "raw_content", "body", "document", "code")
LICENCES = ("licence", "license")
KEPT = ("url", "title", "date", "path")


def record(row: Any, name: str, options: Options, size: int = 0) -> Record | Refusal:
    """The record of one row; a Refusal when its text is missing, of another type, or too large."""
    if not isinstance(row, Mapping):
        return Refusal(name, size, "no_text", f"a {type(row).__name__}, not an object")
    column = column_of(row, options)
    if column not in row:
        return Refusal(name, size, "no_text", missing(column, row))
    value = row[column]
    if not isinstance(value, str):
        return Refusal(name, size, "no_text", f"{column} is a {type(value).__name__}, not a string")
    raw = value.encode("utf-8", "surrogatepass")
    if not raw or len(raw) > LARGEST:
        return Refusal(name, len(raw), "too_large" if raw else "empty", len(raw))
    licence = next((row[key] for key in LICENCES if isinstance(row.get(key), str)), "")
    meta = {key: row[key] for key in KEPT if isinstance(row.get(key), str) and row[key]}
    return Record(name, raw, licence=licence, meta=meta)


def column_of(columns: Any, options: Options) -> str:
    """The text column: the one asked for, else the first of the usual names that is there, else "text"."""
    return options.text or next((name for name in TEXTS if name in columns), TEXTS[0])


def missing(column: str, columns: Any) -> str:
    """What a refusal says about a column that is not there."""
    return f"no column {column}; there are {', '.join(map(str, list(columns)[:8])) or 'none'}"
