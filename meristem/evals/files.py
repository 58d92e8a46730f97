"""Read a benchmark's questions from the user's own copy: a file, a folder, or a folder of such folders; no network.

    rows(Path("data"), "valid.jsonl", folders=("piqa",), url="https://...")    # data/valid.jsonl, data/piqa/valid.jsonl

Plain or gzipped lines of JSON, JSON, CSV and TSV; members of .tar.gz and .zip archives (`members`). A file that is not
there is a RequestError that says where to get it.
"""
import csv
import gzip
import io
import json
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError

LARGEST = 256 << 20                     # bytes of a file, unpacked
Row = dict[str, Any]


def find(source: Path, *names: str, folders: tuple[str, ...] = (), url: str = "") -> Path:
    """The first of `names` (also with .gz) in `source` or in one of its `folders`; a file stands for itself.

    Of a named file the others are looked for beside it.
    """
    source = source.expanduser()
    if not source.exists():
        raise RequestError(f"{source} cannot be read: there is no such file or folder" + (f"; get it at {url}" if url
                                                                                          else ""))
    if source.is_file():
        if len(names) == 1 and source.name.removesuffix(".gz") == names[0].removesuffix(".gz"):
            return source
        beside = [source.parent / (name + ending) for name in names for ending in ("", ".gz")]
        return next((p for p in beside if p.is_file() and p.name != source.name), source)
    for folder in (source, *(source / name for name in folders)):
        for name in names:
            for ending in ("", ".gz"):
                if (folder / (name + ending)).is_file():
                    return folder / (name + ending)
    raise RequestError(f"{source} holds no {' or '.join(names)}" + (f"; get it at {url}" if url else ""))


def read(path: Path) -> str:
    """The text of a file, unpacked; RequestError when it cannot be read or holds more than LARGEST bytes."""
    try:
        with open(path, "rb") as plain, gzip.open(plain) if path.suffix == ".gz" else plain as f:
            raw = f.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise RequestError(f"{path} holds more than {LARGEST >> 20} MB; it is no file of questions")
        return raw.decode()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None


def rows(source: Path, *names: str, folders: tuple[str, ...] = (), url: str = "",
         fields: tuple[str, ...] = ()) -> list[Row]:
    """The rows of one file, by its ending; RequestError names the row that lacks one of `fields`."""
    path = find(source, *names, folders=folders, url=url)
    found = parse(read(path), path.name.removesuffix(".gz"), str(path))
    for number, row in enumerate(found, start=1):
        if missing := [field for field in fields if field not in row]:
            raise RequestError(f"{path}, row {number}: no field {', '.join(missing)}")
    return found


def parse(text: str, name: str, where: str) -> list[Row]:
    """Rows of a text by the ending of its name: .jsonl, .json (rows, or a mapping, which is one row), .csv, .tsv."""
    if name.endswith((".csv", ".tsv")):
        return list(csv.DictReader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ","))
    try:
        if name.endswith(".json"):
            try:
                tree = json.loads(text)
            except ValueError:
                return lines(text, where)                      # lines of JSON under the other ending
            return tree if isinstance(tree, list) else [tree]
        return lines(text, where)
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from None


def lines(text: str, where: str) -> list[Row]:
    """A row a line of JSON; RequestError names the line that is none."""
    out = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                out.append(json.loads(line))
            except ValueError as error:
                raise RequestError(f"{where}, line {number}: {error}") from None
    return out


def members(source: Path, *names: str, folders: tuple[str, ...] = (), url: str = "") -> dict[str, str]:
    """Member name -> text of the archive (.tar.gz, .zip) called one of `names`; of such a folder its files."""
    places = [source.expanduser(), *(source.expanduser() / name for name in folders)]
    if not source.is_file() and not any((place / name).is_file() for place in places for name in names):
        bare = [folder for place in places for name in names if (folder := place / name.split(".")[0]).is_dir()]
        if bare:
            return {p.relative_to(bare[0]).as_posix(): read(p) for p in sorted(bare[0].rglob("*")) if p.is_file()}
    path = find(source, *names, folders=folders, url=url)
    found: dict[str, bytes] = {}
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir() and entry.file_size <= LARGEST:
                        found[entry.filename] = archive.read(entry)
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile() and member.size <= LARGEST:
                        piece = tar.extractfile(member)
                        found[member.name] = piece.read() if piece else b""
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    return {name: _decoded(raw) for name, raw in found.items()}


def _decoded(raw: bytes) -> str:
    """UTF-8, else Latin-1, in which every byte is a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
