"""Documents cut into passages that know where they came from: the document's hash and the characters.

    for chunk in cut(document): assert document.text[chunk.start:chunk.stop] == chunk.text

A passage ends, where it can, at a blank line, else a line's end, a sentence's, a word's, in its last third; the next
one begins `overlap` characters earlier, at the beginning of a word, so that what lies across an end is whole in one of
the two.
"""
import re
from collections.abc import Iterator
from dataclasses import dataclass

from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes
from meristem.core.types import Document

SIZE, OVERLAP = 800, 120                # characters: about 200 and 30 tokens of English, four fit a context of 1,024
TEXT = re.compile(r"\S")
ENDS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"[.!?][\"')]*\s"), re.compile(r"\s"))


@dataclass(frozen=True)
class Chunk:
    """Characters [start, stop) of a document's text; `document` is the xxh3-128 of that whole text, hex."""

    document: str
    source: str                         # where the document lay
    start: int
    stop: int
    text: str

    @property
    def name(self) -> str:
        """Where it stands: notes/a.md:0-800."""
        return f"{self.source}:{self.start}-{self.stop}"

    def of(self, text: str) -> bool:
        """Whether it is what it says of a document: the same text, and these characters of it."""
        return digest_bytes(text) == self.document and text[self.start:self.stop] == self.text


def cut(document: Document, size: int = SIZE, overlap: int = OVERLAP) -> Iterator[Chunk]:
    """The passages of one document in order, each at most `size` characters, together all of it.

    RequestError for an overlap that is not well below the size.
    """
    if size < 1 or not 0 <= overlap <= size // 2:
        raise RequestError(f"passages of {size} characters cannot overlap by {overlap}; overlap is at most half of "
                           "the size")
    text, source = document.text, str(document.meta.get("path") or document.source)
    name, start = digest_bytes(text), 0
    while TEXT.search(text, start):
        stop = _end(text, start, size)
        yield Chunk(name, source, start, stop, text[start:stop])
        if stop == len(text):
            return
        start = _begin(text, max(start + 1, stop - overlap), stop)


def _end(text: str, start: int, size: int) -> int:
    """One past the last character of a passage from `start`."""
    if len(text) - start <= size:
        return len(text)
    first = start + size - size // 3
    for mark in ENDS:
        found = [m.end() for m in mark.finditer(text, first, start + size)]
        if found:
            return found[-1]
    return start + size


def _begin(text: str, wanted: int, latest: int) -> int:
    """The first beginning of a word from `wanted` on, at most `latest`."""
    found = ENDS[-1].search(text, wanted - 1, latest)
    return found.end() if found else latest if wanted >= latest else wanted
