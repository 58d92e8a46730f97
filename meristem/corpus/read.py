"""Files and folders to documents, by content rather than by name; what cannot be one is a `Refusal` that says why.

No bytes crash it and none make it hang: files are judged by their first bytes before they are read whole, links are
never followed, pipes and devices never opened. A text file is UTF-8 (a byte order mark and carriage returns are
removed). Prose longer than 64 KiB is cut at blank lines into parts, so that a book splits into train and test. Files of
rows, web archives, tar, FASTA, PDF and HTML are read by `corpus.formats`, gzip and Zstandard are unpacked on the way.

    for item in documents([Path("~/notes").expanduser()]): ...

`records` is cheap and one record at a time, `convert` does the work (charset, main text): a resumed run repeats the
first alone.
"""
import ast
import io
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from meristem.core.errors import RequestError, nearest
from meristem.core.files import digest_bytes
from meristem.core.types import Document
from meristem.corpus import find, licence, web
from meristem.corpus.formats import git
from meristem.corpus.formats.base import (
    LARGEST,
    SNIFF,
    Options,
    Record,
    Refusal,
    RefusedError,
    is_packed,
    media_of,
    reader_of,
    unpack,
)

PLAIN = Options()
Items = Iterator[Record | Refusal]
PART = 64 << 10                         # characters of a prose document before it is cut
SKIPPED = {"__pycache__", "site-packages", "dist-packages", "node_modules", ".git", ".hg", ".svn", ".venv", ".tox",
           ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"}
CODE = {".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".js", ".ts", ".jsx", ".tsx", ".java", ".go",
        ".rs", ".rb", ".php", ".sh", ".bash", ".pl", ".lua", ".r", ".jl", ".hs", ".ml", ".scala", ".kt", ".swift",
        ".sql", ".m4", ".css", ".pm", ".tcl", ".vim", ".awk", ".mjs", ".f90", ".ps1", ".bat", ".cmake", ".toml",
        ".yaml", ".yml", ".json", ".ini", ".cfg", ".xml"}
PROSE = {".txt", ".md", ".rst", ".tex", ".html", ".htm", ".org", ".adoc"}
SYMBOLS = b"{}()[];=<>_"
SYMBOLS_OF_CODE = 0.04                  # share of bytes: 0.08 in the standard library's code, 0.015 in its prose


def documents(paths: Sequence[Path], without: Collection[Path] = ()) -> Iterator[Document | Refusal]:
    """Every file below `paths`, sorted by name; RequestError when a path does not exist or a folder is empty.

    A document's meta has `path` (relative to the folder above the named one) and `kind`: "code" or "prose". The paths
    `without` are passed over (what is being written).
    """
    for root in roots(paths):
        for path, refusal, terms in walk(root, without):
            for item in [refusal] if refusal else records(path, shown(path, root), terms, options_of(root)):
                yield from [item] if isinstance(item, Refusal) else convert(item)


def roots(paths: Sequence[Path]) -> list[Path]:
    """The named paths, resolved, each once; one inside another is not read twice. RequestError for a missing one."""
    if not paths:
        raise RequestError("nothing to read: name a file or a folder")
    resolved = []
    for path in paths:
        try:
            full = Path(path).expanduser().resolve()
            full.stat()
        except (OSError, RuntimeError, ValueError):
            raise RequestError(f"{path} does not exist; {_nearest_path(Path(path))}") from None
        try:
            empty = full.is_dir() and not any(full.iterdir())
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from None
        if empty:
            raise RequestError(f"{path} is an empty folder; name one that holds text or code")
        resolved.append(full)
    return [p for p in dict.fromkeys(resolved) if not any(p != q and p.is_relative_to(q) for q in resolved)]


def options_of(root: Path, text: str = "") -> Options:
    """How the files of a root are read: the archives and tables in the standard library are fixtures of its tests."""
    return Options(text, formats=not root.is_relative_to(find.standard_library()[0]))


def kind_of(name: str, text: str) -> str:
    """ "code" or "prose": by the extension where it is telling, else by a #! line or the share of symbols."""
    extension = os.path.splitext(name)[1].lower()
    if extension in CODE or text.startswith("#!"):
        return "code"
    if extension in PROSE:
        return "prose"
    head = text[:SNIFF].encode()
    return "code" if len(head) - len(head.translate(None, SYMBOLS)) >= SYMBOLS_OF_CODE * len(head) else "prose"


def _nearest_path(path: Path) -> str:
    """The nearest existing sibling of a path that does not exist."""
    parent = path.expanduser().absolute().parent
    try:
        return nearest(path.name, [p.name for p in parent.iterdir()][:1000])
    except OSError:
        return _nearest_path(parent) if parent != parent.parent else "name an existing one"


def shown(path: Path, root: Path) -> str:
    """What the ledger calls a file: `notes/a.md` in the named folder `notes`; bytes not UTF-8 are escaped."""
    return _printable(path.relative_to(root.parent))


def _printable(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(name: str, error: OSError) -> Refusal:
    return Refusal(name, 0, "unreadable", error.strerror or str(error))


def walk(root: Path, without: Collection[Path] = ()) -> Iterator[tuple[Path, Refusal | None, str]]:
    """(path, why it is not to be read or None, the licence its folder is under), depth first, sorted by name."""
    terms = licence.of_folder(root if root.is_dir() else root.parent)
    if root.is_relative_to(find.standard_library()[0]):
        terms = terms or "PSF-2.0"
    stack = [(root, terms or licence.UNKNOWN)]
    while stack:
        path, terms = stack.pop()
        if path in without:
            continue
        refusal = _refuse_unread(path, root)
        if refusal or not path.is_dir() or (path == root and git.is_repository(path)):
            yield path, refusal, terms
            continue
        try:
            inside = sorted(path.iterdir(), reverse=True)
        except OSError as error:
            yield path, _unreadable(shown(path, root), error), terms
            continue
        terms = licence.of_folder(path) or terms
        stack += [(p, terms) for p in inside]


def _refuse_unread(path: Path, root: Path) -> Refusal | None:
    """Why a path is not even opened: a link, a pipe or device, a folder that holds nobody's writing."""
    name = shown(path, root)
    try:
        mode = path.lstat().st_mode
        if path != root and stat.S_ISLNK(mode):
            return Refusal(name, 0, "link", _printable(os.readlink(path)))
    except OSError as error:
        return _unreadable(name, error)
    if stat.S_ISDIR(mode):
        return Refusal(name, 0, "skipped_folder", path.name) if path != root and path.name in SKIPPED else None
    return None if stat.S_ISREG(mode) else Refusal(name, 0, "not_a_file", stat.filemode(mode)[0])


def records(path: Path, name: str, terms: str = licence.UNKNOWN, options: Options = PLAIN,
            opened: Callable[[BinaryIO], None] = lambda f: None) -> Items:
    """What a file holds before it is decoded: itself, or its rows, pages, members, sequences or commits.

    `opened` is given the open file: where it stands tells how far the reading is.
    """
    try:
        if path.is_dir():
            yield from (_under(item, terms) for item in _told(git.commits(path, name), name, 0))
            return
        with open(path, "rb") as f:
            opened(f)
            for item in records_of(f, name, os.fstat(f.fileno()).st_size, options):
                yield _under(item, terms)
    except RefusedError as refused:
        yield Refusal(name, 0, *refused.args)
    except OSError as error:
        yield _unreadable(name, error)


def records_of(f: BinaryIO, name: str, size: int, options: Options, nested: bool = False) -> Items:
    """The records of an open file; what its reader refuses is the last of them. `nested`: it is part of another."""
    head = f.read(SNIFF)
    stream = cast(BinaryIO, io.BufferedReader(_Again(head, f))) if nested else f
    if not nested:
        f.seek(0)
    try:
        if options.formats and is_packed(head):
            stream = unpack(stream)
            head = stream.peek(SNIFF)[:SNIFF]                  # type: ignore[attr-defined]
            size = -1
        reader = reader_of(name, head) if options.formats else None
        if reader and nested and reader.__name__.endswith(".tar"):
            yield Refusal(name, size, "nested", "tar inside tar")
        elif reader:
            yield from _told(reader.records(stream, name, options), name, max(size, 0))
        else:
            yield Record(name, _bytes_of_text(stream, size))
    except RefusedError as refused:
        yield Refusal(name, max(size, 0), *refused.args)


def _told(items: Items, name: str, size: int) -> Items:
    """The items of a file of many records; one that holds none is a line of the ledger, too."""
    one: Record | Refusal | None = None
    for one in items:
        yield one
    if one is None:
        yield Refusal(name, size, "no_record", size)


def convert(record: Record) -> Iterator[Document | Refusal]:
    """The documents of a record, decoded; a long text is several."""
    try:
        text, charset = _text(record)
    except RefusedError as refused:
        yield Refusal(record.name, len(record.raw), *refused.args)
        return
    terms = licence.of_text(text) or record.licence or licence.UNKNOWN
    told = str(record.meta.get("path") or os.path.basename(record.name))
    kind = record.kind or kind_of(told, text)
    more = {key: record.meta[key] for key in ("url", "date", "title") if record.meta.get(key)}
    more |= {"charset": charset} if charset not in ("utf-8", "") else {}
    said = web.reserved(record.raw if record.media == "html" else b"", record.meta.get("headers", ()))
    more |= {"opt_out": said} if said else {}
    for name, part in _parts(record.name, text, kind):
        raw = part.encode()
        meta = {"path": name, "kind": "prose" if name != record.name else kind, "bytes": len(raw), **more}
        yield Document(digest_bytes(raw), record.name, terms, {"text": part}, meta)


def _under(item: Record | Refusal, terms: str) -> Record | Refusal:
    """A record under its folder's licence where it states none."""
    from dataclasses import replace
    return item if isinstance(item, Refusal) or item.licence else replace(item, licence=terms)


def _text(record: Record) -> tuple[str, str]:
    """(text, charset) of a record; RefusedError when it has none."""
    if record.media == "pdf":
        return web.pdf(record.raw), ""
    if record.media == "html":
        page, charset = web.decode(record.raw, record.meta.get("charset", ""))
        return web.main_text(page), charset
    if record.meta.get("web"):
        text, charset = web.decode(record.raw, record.meta.get("charset", ""))
    else:
        try:
            text, charset = record.raw.decode("utf-8-sig"), "utf-8"
        except UnicodeDecodeError as error:
            raise RefusedError("invalid_utf8", error.start) from None
    if (zero := text.find("\0")) >= 0:
        raise RefusedError("binary", zero)
    return text.replace("\r\n", "\n").replace("\r", "\n"), charset


def _bytes_of_text(f: BinaryIO, size: int) -> bytes:
    """The whole of an open file that may be text; the size is checked again, for files that grow or hide it."""
    raw = f.read(SNIFF)
    if not raw:
        raise RefusedError("empty", 0)
    if b"\0" not in raw:
        if size > LARGEST:
            raise RefusedError("too_large", size)
        while len(raw) <= LARGEST and (block := f.read(LARGEST + 1 - len(raw))):
            raw += block
        if len(raw) > LARGEST:
            raise RefusedError("too_large", len(raw))
    if (zero := raw.find(b"\0")) >= 0:
        if kind := media_of(raw):
            raise RefusedError("media", f"a {kind}: curate {kind}s:FOLDER reads it")
        raise RefusedError("binary", zero)
    return raw


class _Again(io.RawIOBase):
    """A stream that cannot go back, with what was read of it put before it."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        block = self.head[: len(into)] or self.stream.read(len(into))
        self.head = self.head[len(into):]
        into[: len(block)] = block
        return len(block)


def _parts(name: str, text: str, kind: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the documents in one file: the file itself, or its topics or parts as `file#part`."""
    if name.endswith("pydoc_data/topics.py") and (topics := _topics(text)):
        yield from ((f"{name}#{topic}", text) for topic, text in topics.items())
    elif kind != "prose" or len(text) <= PART:
        yield name, text
    else:
        yield from ((f"{name}#{n}", part) for n, part in enumerate(_cut(text), start=1))


def _topics(text: str) -> dict[str, str]:
    """pydoc's help texts: the module is one assignment of a literal mapping; {} when it is something else."""
    try:
        body = ast.parse(text).body
        value = ast.literal_eval(body[-1].value) if isinstance(body[-1], ast.Assign) else {}
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return {}
    return value if isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair) else {}


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most PART characters that join to `text`: cut at the last blank line, else line, else anywhere."""
    start = 0
    while len(text) - start > PART:
        stop = start + PART
        ends = (text.rfind(mark, start + PART // 2, stop) + len(mark) for mark in ("\n\n", "\n"))
        end = next((end for end in ends if end > start + PART // 2), stop)
        yield text[start:end]
        start = end
    yield text[start:]
