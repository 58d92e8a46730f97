"""What the page shows beside answers: the runs of a folder, and which of two answers people prefer.

GET /api/runs, /api/runs/NAME; POST /v1/preferences. A name is looked up in the listing of the folder, never joined to
a path. Preferences are lines of {"prompt", "chosen", "rejected", ...}, which `data.preferences` reads as a corpus.
"""
import json
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from meristem.core.errors import MachineError, RequestError
from meristem.core.files import read_json
from meristem.serve.errors import Refused
from meristem.serve.schema import MESSAGES, Message, Strict, Text

TREES = ("recipe", "manifest", "result", "energy", "goodput", "plan")
PLANNED = ("name", "model")            # what a plan and the run made of it have in common
POINTS = 1000                           # lines of a log that are shown
LINES = 5_000_000                       # bytes of it that are read, from its end
LABEL = Annotated[str, Field(max_length=512)]


class Preference(Strict):
    """Which of two answers to a prompt somebody prefers."""

    prompt: Text | Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)]
    chosen: Text
    rejected: Text
    model_chosen: LABEL = ""
    model_rejected: LABEL = ""


def listed(folder: Path | None) -> dict[str, Path]:
    """The runs of a folder by name."""
    if folder is None:
        return {}
    return {path.name: path for path in sorted(folder.iterdir())
            if not path.is_symlink() and (path / "recipe.json").is_file()}


def summary(folder: Path | None) -> list[dict[str, Any]]:
    """A line a run."""
    out = []
    for name, path in listed(folder).items():
        log = _lines(path / "log.jsonl", 4_000)
        out.append({"name": name, "finished": (path / "result.json").is_file(), "last": log[-1] if log else {},
                    "changed": max(p.stat().st_mtime for p in path.iterdir())})
    return out


def run(folder: Path | None, name: str) -> dict[str, Any]:
    """Everything that a run's page shows; `Refused`: 404."""
    path = listed(folder).get(name)
    if path is None:
        raise Refused(404, f"there is no run {name[:200]!r}", "not_found")
    log = _lines(path / "log.jsonl", LINES)
    every = max(1, len(log) // POINTS)
    trees = {tree: _tree(path / f"{tree}.json") for tree in TREES}
    trees["plan"] = trees["plan"] or _planned(path.parent, trees["recipe"])
    scores = {task.stem: _tree(task) for task in sorted((path / "evals").glob("*.json"))}
    return {"name": name, **trees, "log": [row for i, row in enumerate(log) if i % every == 0 or i == len(log) - 1],
            "samples": _lines(path / "samples.jsonl", LINES)[-50:], "scores": scores}


def _planned(folder: Path, recipe: Any) -> Any:
    """The quickstart's plan, which lies beside its runs, where it is of this one; {} where it is not."""
    plan = _tree(folder / "plan.json")
    same = isinstance(plan.get("run"), dict) and all(plan["run"].get(key) == recipe.get(key) for key in PLANNED)
    return plan if same else {}


def keep(path: Path | None, preference: Preference, client: str) -> dict[str, str]:
    """Append a preference to the file."""
    if path is None:
        raise Refused(404, "this server keeps no preferences; start it with --preferences FILE", "not_found")
    line = {**preference.model_dump(exclude_none=True), "client": client, "time": int(time.time())}
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
    except OSError as error:
        raise MachineError(f"could not write {path}: {error.strerror}") from error
    return {"status": "kept"}


def _tree(path: Path) -> Any:
    try:
        return read_json(path) if path.is_file() else {}
    except RequestError:                                       # it is being written
        return {}


def _lines(path: Path, most: int) -> list[Any]:
    if not path.is_file():
        return []
    with open(path, "rb") as f:
        f.seek(max(0, path.stat().st_size - most))
        rows, out = f.read().split(b"\n"), []
    for row in rows:
        try:
            out.append(json.loads(row))
        except ValueError:                                     # a line cut by the seek or by a writer
            continue
    return [row for row in out if isinstance(row, dict)]
