"""Files that are either whole or absent: digests, atomic writes and the folder commit protocol.

A checkpoint or a model folder is committed in this order, each step needed (docs/reliability.md):
write into `.tmp-NAME-PID/` -> fsync each file -> MANIFEST.json (size and xxh3-128 of every file; fsync) -> fsync the
folder -> rename to NAME -> fsync the parent. A reader verifies the manifest before it believes the folder.
"""
import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError

from meristem.core.errors import MachineError, RequestError

MANIFEST = "MANIFEST.json"
CHUNK = 1 << 22
AT_FDCWD, RENAME_EXCHANGE = -100, 2      # Linux fcntl.h


def digest(path: Path) -> str:
    """xxh3-128 of a file's bytes, hex (30 GB/s in memory: integrity costs nothing)."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as f:
        while block := f.read(CHUNK):
            state.update(block)
    return state.hexdigest()


class Digest:
    """`digest_bytes` of strings that come one by one."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def add(self, part: bytes | str) -> None:
        """One string more."""
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        self._state.update(len(raw).to_bytes(8, "little"))
        self._state.update(raw)

    def hex(self) -> str:
        """xxh3-128 so far, hex."""
        return self._state.hexdigest()


def digest_bytes(*parts: bytes | str) -> str:
    """xxh3-128 of some strings, each prefixed by its length so that no two lists collide by joining."""
    state = Digest()
    for part in parts:
        state.add(part)
    return state.hex()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically (temporary file, fsync, rename), two-space indented, keys in the given order."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, raw: bytes) -> None:
    """Write bytes atomically: a reader sees the old file or the new one, never half."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"could not write {path}: {error.strerror}; "
                           "free some space or choose another folder") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file; RequestError names file and line when it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: {error}") from None


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def committed(folder: Path, extra: dict[str, Any] | None = None,
              point: Callable[[str], None] = lambda name: None) -> Iterator[Path]:
    """Write a folder that appears whole or not at all: `with committed(path) as tmp: ...` fills `tmp`.

    A folder that was there is replaced in one step. `extra` is stored inside the manifest. `point(name)` is called at
    each named step, for fault tests. MachineError when the disk refuses; what was there before is then untouched.
    """
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        point("written")
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for path in files:
            sync(path)
        table = {p.relative_to(temporary).as_posix(): {"bytes": p.stat().st_size, "xxh3": digest(p)} for p in files}
        write_json(temporary / MANIFEST, {"files": table, **(extra or {})})
        point("manifest")
        for inner in {p.parent for p in files} | {temporary}:
            sync(inner)
        if folder.exists():
            _exchange(temporary, folder)
            shutil.rmtree(temporary, ignore_errors=True)       # now the old content
        else:
            os.rename(temporary, folder)
        sync(folder.parent)
        point("renamed")
    except (OSError, SafetensorError) as error:                # safetensors has its own class for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise MachineError(f"could not write {folder}: {error}; free some space or choose another folder") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step (Linux renameat2), so that a kill leaves a whole one at `old`; elsewhere in two."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
        swapped = renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0
    except (AttributeError, OSError, TypeError):
        swapped = False
    if not swapped:
        aside = old.with_name(f".tmp-old-{old.name}-{os.getpid()}")
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)


def verify(folder: Path) -> str:
    """'' when every file of a committed folder has its recorded size and digest, else what is wrong, in words."""
    try:
        table = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        facts = [(str(name), int(fact["bytes"]), str(fact["xxh3"])) for name, fact in table.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is missing or unreadable"
    for name, size, checksum in facts:
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"{MANIFEST} names {name!r}, which is outside the folder"
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, the manifest says {size}"
            if digest(path) != checksum:
                return f"{name} is damaged (its checksum differs from the manifest)"
        except (OSError, ValueError) as error:
            return f"{name!r} cannot be read ({error})"
    return ""


def claim(folder: Path, kind: str, same: Callable[[Path], bool]) -> None:
    """Make `folder` ours to write: absent, empty, or holding the same `kind` of thing by `same`; else RequestError."""
    if folder.is_file():
        raise RequestError(f"{folder} is a file; give --out a folder")
    if folder.is_dir() and any(folder.iterdir()) and not same(folder):
        raise RequestError(f"{folder} already holds something that is not this {kind}; "
                           "choose another --out or remove it first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"could not make {folder}: {error.strerror}") from error


@contextmanager
def claimed(folder: Path, kind: str, same: Callable[[Path], bool]) -> Iterator[None]:
    """`claim` for a block of work: when it fails, a folder that was made for it and is still empty goes again."""
    new = not folder.exists()
    claim(folder, kind, same)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):                            # it holds something by now
                folder.rmdir()
        raise
