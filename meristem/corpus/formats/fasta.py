"""FASTA: one document a sequence, named `file#accession`; kind is protein or dna by its letters.

Lipman and Pearson 1985; a header line begins with `>`, the lines below it are the sequence.
"""
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats.base import LARGEST, Options, Record, Refusal, lines

NUCLEOTIDES = set(b"ACGTUNacgtun-")


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """Every sequence; what stands above the first header, and lines and sequences too long, are refusals."""
    head, size = "", 0
    parts: list[bytes] = []
    for number, line in lines(stream):
        if line is None:
            yield Refusal(f"{name}#{number}", LARGEST, "too_large", LARGEST)
        elif line.startswith(b">"):
            yield from _sequence(name, head, parts, size)
            head, parts, size = line[1:].decode("utf-8", "backslashreplace") or str(number), [], 0
        elif line.strip():
            if not head:
                yield Refusal(f"{name}#{number}", len(line), "not_fasta", "no > above it")
                continue
            size += len(line)
            if size <= LARGEST:
                parts.append(line.strip())
    yield from _sequence(name, head, parts, size)


def _sequence(name: str, head: str, parts: list[bytes], size: int) -> Iterator[Record | Refusal]:
    if not head:
        return
    place, raw = f"{name}#{(head.split() or ['?'])[0]}", b"".join(parts)
    if size > LARGEST or not raw:
        yield Refusal(place, size, "too_large" if raw else "empty", size)
    else:
        yield Record(place, raw, kind="dna" if set(raw) <= NUCLEOTIDES else "protein", meta={"title": head[:200]})
