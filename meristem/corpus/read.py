"""Files and folders to documents, by content rather than by name; what cannot be one is a `Refusal` that says why.

No bytes crash it and none make it hang: files are judged by their first bytes before they are read whole, links are
never followed, pipes and devices never opened. A text file is UTF-8 (a byte order mark and carriage returns are
removed). Prose longer than 64 KiB is cut at blank lines into parts, so that a book splits into train and test.

    for item in documents([Path("~/notes").expanduser()]): ...
"""
import ast
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meristem.core.errors import RequestError, nearest
from meristem.core.files import digest_bytes
from meristem.core.types import Document
from meristem.corpus import find, licence

LARGEST = 8 << 20                       # bytes of a file; a larger one is data or a dump, and memory stays flat
SNIFF = 8192                            # bytes that are enough to see that a file is not text
PART = 64 << 10                         # characters of a prose document before it is cut
SKIPPED = {"__pycache__", "site-packages", "dist-packages", "node_modules", ".git", ".hg", ".svn", ".venv", ".tox",
           ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"}
CODE = {".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".js", ".ts", ".jsx", ".tsx", ".java", ".go",
        ".rs", ".rb", ".php", ".sh", ".bash", ".pl", ".lua", ".r", ".jl", ".hs", ".ml", ".scala", ".kt", ".swift",
        ".sql", ".m4", ".css", ".ps1", ".bat", ".cmake", ".toml", ".yaml", ".yml", ".json", ".ini", ".cfg", ".xml"}
PROSE = {".txt", ".md", ".rst", ".tex", ".html", ".htm", ".org", ".adoc"}
SYMBOLS = b"{}()[];=<>_"
SYMBOLS_OF_CODE = 0.04                  # share of bytes: 0.08 in the standard library's code, 0.015 in its prose


@dataclass(frozen=True)
class Refusal:
    """A path that gave no document: the rule that says so, and the value the rule saw."""

    path: str
    bytes: int
    rule: str
    value: float | str


class _Refused(Exception):
    """Raised inside this file with (rule, value)."""


def documents(paths: Sequence[Path], without: Collection[Path] = ()) -> Iterator[Document | Refusal]:
    """Every file below `paths`, sorted by name; RequestError when a path does not exist or a folder is empty.

    A document's meta has `path` (relative to the folder above the named one) and `kind`: "code" or "prose". The paths
    `without` are passed over (what is being written).
    """
    for root in roots(paths):
        for path, refusal, terms in walk(root, without):
            yield from [refusal] if refusal else _read(path, _shown(path, root), terms)


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


def _shown(path: Path, root: Path) -> str:
    """`notes/a.md` for a file of the named folder `notes`; bytes that are not UTF-8 are escaped."""
    return _printable(path.relative_to(root.parent))


def _printable(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(shown: str, error: OSError) -> Refusal:
    return Refusal(shown, 0, "unreadable", error.strerror or str(error))


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
        if refusal or not path.is_dir():
            yield path, refusal, terms
            continue
        try:
            inside = sorted(path.iterdir(), reverse=True)
        except OSError as error:
            yield path, _unreadable(_shown(path, root), error), terms
            continue
        terms = licence.of_folder(path) or terms
        stack += [(p, terms) for p in inside]


def _refuse_unread(path: Path, root: Path) -> Refusal | None:
    """Why a path is not even opened: a link, a pipe or device, a folder that holds nobody's writing."""
    shown = _shown(path, root)
    try:
        mode = path.lstat().st_mode
        if path != root and stat.S_ISLNK(mode):
            return Refusal(shown, 0, "link", _printable(os.readlink(path)))
    except OSError as error:
        return _unreadable(shown, error)
    if stat.S_ISDIR(mode):
        return Refusal(shown, 0, "skipped_folder", path.name) if path != root and path.name in SKIPPED else None
    return None if stat.S_ISREG(mode) else Refusal(shown, 0, "not_a_file", stat.filemode(mode)[0])


def _read(path: Path, shown: str, terms: str) -> Iterator[Document | Refusal]:
    size = 0
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            raw = _bytes_of_text(f, size)
        text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except _Refused as refused:
        yield Refusal(shown, size, *refused.args)
    except UnicodeDecodeError as error:
        yield Refusal(shown, size, "invalid_utf8", error.start)
    except OSError as error:
        yield _unreadable(shown, error)
    else:
        terms = licence.of_text(text) or terms
        kind = kind_of(path.name, text)
        for name, part in _parts(shown, text, kind):
            raw = part.encode()
            meta = {"path": name, "kind": "prose" if name != shown else kind, "bytes": len(raw)}
            yield Document(digest_bytes(raw), shown, terms, {"text": part}, meta)


def _bytes_of_text(f, size: int) -> bytes:
    """The whole of an open file that may be text; the size is checked again, for files that grow or hide it."""
    raw = f.read(SNIFF)
    if not raw:
        raise _Refused("empty", 0)
    if b"\0" not in raw:
        if size > LARGEST:
            raise _Refused("too_large", size)
        raw += f.read(LARGEST + 1 - len(raw))
        if len(raw) > LARGEST:
            raise _Refused("too_large", len(raw))
    if (zero := raw.find(b"\0")) >= 0:
        raise _Refused("binary", zero)
    return raw


def _parts(shown: str, text: str, kind: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the documents in one file: the file itself, or its topics or parts as `file#part`."""
    if shown.endswith("pydoc_data/topics.py") and (topics := _topics(text)):
        yield from ((f"{shown}#{name}", topic) for name, topic in topics.items())
    elif kind == "code" or len(text) <= PART:
        yield shown, text
    else:
        yield from ((f"{shown}#{n}", part) for n, part in enumerate(_cut(text), start=1))


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
