"""What formats share: a record, a refusal, bounded decompression and bounded lines.

Nothing here trusts a length that a file states: reads have limits, a stream that unpacks to more than `RATIO` times
what it was read from is refused, and a line is never longer in memory than `LARGEST`.

    reader = reader_of("crawl.warc.gz", head)       # the module formats.warc, or None: a file of plain text
"""
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePath
from types import ModuleType
from typing import Any, BinaryIO, cast

import zstandard

LARGEST = 8 << 20                       # bytes of a file, record or line; a larger one is data or a dump
SNIFF = 8192                            # bytes that are enough to see what a file is
RATIO = 500                             # unpacked to packed bytes: text reaches 5 to 20, copies of one page 100
RATIO_FROM = 64 << 20                   # unpacked bytes before the ratio is looked at
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
PACKED = (".gz", ".zst", ".tgz")
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".html": "html", ".htm": "html",
          ".xhtml": "html", ".fasta": "fasta", ".fa": "fasta", ".faa": "fasta", ".fna": "fasta"}


@dataclass(frozen=True)
class Options:
    """How files are read: `text` names the column of JSON lines, CSV and parquet; empty: the first of the usual names.

    Without `formats` every file is one text or nothing.
    """

    text: str = ""
    formats: bool = True


@dataclass(frozen=True)
class Record:
    """One unit of a file before it is decoded: `media` is text, html or pdf; `name` is what the ledger calls it."""

    name: str
    raw: bytes
    media: str = "text"
    licence: str = ""
    kind: str = ""                      # where the format knows it; empty: by name and content
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A path or record that gave no document: the rule that says so, and the value the rule saw."""

    path: str
    bytes: int
    rule: str
    value: float | str


MEDIA = ((b"\x89PNG\r\n\x1a\n", "picture"), (b"\xff\xd8\xff", "picture"), (b"GIF8", "picture"), (b"fLaC", "sound"),
         (b"OggS", "sound"), (b"ID3", "sound"))                # first bytes
ARCHIVE = re.compile(rb"WARC/\d\.\d+\r?\n|filedesc://\S+ \S+ \d+ \S+ \d+\s")     # the first line of WARC and of ARC


class RefusedError(Exception):
    """(rule, value): why what is being read gives no document."""


def extra(module: str, package: str) -> Any:
    """A module of a package that is an extra; RefusedError, a ledger line, when it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise RefusedError("needs_package", f"pip install {package}") from None


def reader_of(name: str, head: bytes) -> ModuleType | None:
    """The format that reads a file, by its first (unpacked) bytes, else by its extension; None: one text."""
    found = next((kind for mark, kind in ((b"PAR1", "parquet"), (b"%PDF-", "pdf")) if head.startswith(mark)), "")
    if ARCHIVE.match(head):
        found = "warc"
    if not found and head[257:262] == b"ustar":
        found = "tar"
    found = found or TABLES.get(extension(name), "")
    return import_module(f"meristem.corpus.formats.{found}") if found else None


def media_of(head: bytes) -> str:
    """Whether these are the first bytes of a picture, a film or a sound; "" for others."""
    if head.startswith(b"RIFF"):
        return {b"WAVE": "sound", b"WEBP": "picture", b"AVI ": "film"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return "film"
    return next((kind for mark, kind in MEDIA if head.startswith(mark)), "")


def extension(name: str) -> str:
    """The extension that says what is inside: `.jsonl` of `part.jsonl.gz`."""
    path = PurePath(name.lower())
    if path.suffix == ".tgz":
        return ".tar"
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def is_packed(head: bytes) -> bool:
    """Whether these first bytes are those of gzip or Zstandard."""
    return head.startswith((GZIP, ZSTD))


def unpack(stream: BinaryIO) -> BinaryIO:
    """The unpacked bytes of a gzip or Zstandard stream, read as they are asked for; a bomb is a RefusedError."""
    counted = _Counted(stream)
    head = counted.peek(4)
    inner = gzip.GzipFile(fileobj=counted) if head.startswith(GZIP) else zstandard.ZstdDecompressor(
        max_window_size=1 << 27).stream_reader(cast(BinaryIO, counted), read_across_frames=True)
    return io.BufferedReader(_Bounded(inner, counted), 1 << 16)


def lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its end); None for a line over LARGEST, whose bytes are passed over."""
    number = 0
    while line := stream.readline(LARGEST + 1):
        number += 1
        if len(line) > LARGEST and not line.endswith(b"\n"):
            while (line := stream.readline(LARGEST)) and not line.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line.rstrip(b"\r\n")


def at_most(stream: Any, size: int = LARGEST) -> bytes:
    """Everything in a stream; RefusedError when that is more than `size` bytes."""
    parts, total = [], 0
    while block := stream.read(min(1 << 20, size + 1 - total)):
        parts.append(block)
        if (total := total + len(block)) > size:
            raise RefusedError("too_large", total)
    return b"".join(parts)


class _Counted(io.RawIOBase):
    """A stream that knows how many bytes were read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.count, self.ahead = stream, 0, b""

    def peek(self, size: int) -> bytes:
        self.ahead = self.ahead or self.stream.read(size)
        return self.ahead

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block, self.ahead = self.ahead, b""
        if size < 0 or len(block) < size:
            block += self.stream.read(size - len(block) if size >= 0 else -1)
        else:
            block, self.ahead = block[:size], block[size:]
        self.count += len(block)
        return block


class _Bounded(io.RawIOBase):
    """Unpacked bytes with the ratio watched; damage is a RefusedError, not an exception of some library."""

    def __init__(self, inner: Any, packed: _Counted) -> None:
        self.inner, self.packed, self.count = inner, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        try:
            block = self.inner.read(len(into))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise RefusedError("damaged", " ".join(str(error).split())[:100]) from None
        self.count += len(block)
        if self.count > RATIO_FROM and self.count > RATIO * max(1, self.packed.count):
            raise RefusedError("bomb", round(self.count / max(1, self.packed.count)))
        into[: len(block)] = block
        return len(block)
