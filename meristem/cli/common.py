"""What every verb shares: the `Answer` it returns, how it stops, and paths as people write them.

This module and every verb's file import nothing heavy at the top: `meristem VERB --help` must not pay for torch.
"""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError


@dataclass(frozen=True)
class Answer:
    """What a verb found out: `facts` is the JSON object of `--json`, `text` is what a person reads instead."""

    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""


class Stopped(BaseException):
    """The user or the system stopped the work; `line` says what is left and how to go on, `status` is 128 + signal."""

    def __init__(self, line: str, status: int = 130):
        super().__init__(line)
        self.line, self.status = line, status


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """Ctrl-C or SIGTERM inside becomes `Stopped` with the command that goes on where the work was left."""
    from meristem.train.trainer import Interrupted
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped; the run is resumable: {command}") from None
    except Interrupted as stop:
        raise Stopped(f"stopped and saved; the run is resumable: {command}", 128 + stop.number) from None


def clock(duration: float) -> str:
    """75 -> '1:15', 3700 -> '1:01:40'."""
    whole = max(0, round(duration))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def shell(*words: str | Path) -> str:
    """A command line that can be pasted back."""
    import shlex
    return shlex.join([str(w) for w in words])


def inputs(paths: Sequence[Path]) -> list[Path]:
    """Files and folders to read; RequestError names every one that is not there."""
    missing = [str(p) for p in paths if not os.path.lexists(p.expanduser())]
    if missing:
        raise RequestError(f"{', '.join(missing)}: no such file or folder")
    return [p.expanduser() for p in paths]


def table(rows: Sequence[Sequence[Any]], indent: int = 2) -> str:
    """Rows of cells as aligned columns of plain text."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(" " * indent + line.rstrip() for line in lines)


def model_folder(path: Path) -> Path:
    """The folder in the Hugging Face layout: `path` itself, `model/` in a run folder, or a Hub id's in the cache.

    An adapter folder stands for its base with the adapter, `adapter/` in a run that has no model of plain weights.
    """
    from meristem.hub.cache import adapter_of, locate
    return adapter_of(path.expanduser()) or locate(path)
