"""Spans of a text that must not stay: found by patterns, checked where the kind has a check, replaced by their kind.

What the ledger keeps of a span is its kind, where it stood, and 16 bits of its hash: enough to check a span that one
has, too few to guess one that one has not (there are a thousand million social security numbers).

    text, facts = replaced("write to ann@example.org", found("write to ann@example.org", PATTERNS))
    # "write to <EMAIL>", {"spans": [["email", 9, 24, "9c1f"]]}
"""
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meristem.core.files import digest_bytes

CHECKED = 4                             # hexadecimal digits of a span's hash that are kept


@dataclass(frozen=True)
class Pattern:
    """A kind of span: `marks` are characters of which a text that has one must hold some (a quick look before the
    search); `check` judges a match with the text before it; the group `it`, where there is one, is the span."""

    kind: str
    regex: re.Pattern[str]
    check: Callable[[str, str], bool] = lambda match, before: True
    marks: str = ""
    around: int = 0                     # characters before the match that `check` is shown


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `stop` of a text."""

    start: int
    stop: int
    kind: str


def found(text: str, patterns: Iterable[Pattern]) -> list[Span]:
    """The spans of all patterns in order; of two that overlap the one of the earlier pattern stays."""
    out: list[Span] = []
    for pattern in patterns:
        if pattern.marks and not any(mark in text for mark in pattern.marks):
            continue
        for match in pattern.regex.finditer(text):
            start, stop = match.span("it" if "it" in pattern.regex.groupindex else 0)
            before = text[max(0, start - pattern.around): start]
            if pattern.check(text[start:stop], before) and not any(s.start < stop and start < s.stop for s in out):
                out.append(Span(start, stop, pattern.kind))
    return sorted(out)


def replaced(text: str, spans: Sequence[Span]) -> tuple[str, dict[str, Any]]:
    """(the text with `<KIND>` for each span, {"spans": [[kind, start, stop, hash], ...]}, places in the text given)."""
    if not spans:
        return text, {}
    parts, at, told = [], 0, []
    for span in spans:
        parts += [text[at: span.start], f"<{span.kind.upper()}>"]
        told.append([span.kind, span.start, span.stop, digest_bytes(text[span.start: span.stop])[:CHECKED]])
        at = span.stop
    return "".join([*parts, text[at:]]), {"spans": told}


def added(before: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Facts of a stage with those of an earlier one; each list counts places in the text as its stage saw it."""
    return {"spans": [*before.get("spans", ()), *more["spans"]]} if "spans" in more else {}
