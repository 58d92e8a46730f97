"""Rows with a sound or a series of numbers: what is in them, for `corpus.labelled`.

    {"audio": "digits/7.wav", "text": "seven", "label": "7"}                   # a file beside the rows; maybe words
    {"series": [20.5, 21.0, null, 19.5], "label": "oven 3"}                    # numbers at equal times

Sounds lie in the split's tar beside what is said of them, as pictures do (corpus/pictures.py).
"""
import math
from collections.abc import Mapping
from typing import Any

LONGEST = 1 << 20                       # numbers of a series


def is_one(row: Mapping[str, Any]) -> bool:
    """Whether a row has a sound or a series."""
    return "audio" in row or "series" in row


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The text of such a row, which may be missing; {} of others."""
    return {"text": row.get("text", "")} if is_one(row) else {}


def trouble(row: Mapping[str, Any]) -> str:
    """What is wrong with such a row, or ""."""
    if not (isinstance(row.get("text", ""), str) and isinstance(row.get("label", ""), str | int)):
        return "text and label of a sound or a series are strings"
    series = row.get("series", [0])
    fine = isinstance(series, list) and 0 < len(series) <= LONGEST and all(
        x is None or (isinstance(x, int | float) and math.isfinite(x)) for x in series)
    return "" if fine and any(x is not None for x in series) else (
        f"series is a list of at most {LONGEST:,} numbers or nulls, not all null")
