"""The folder is the registry: `load("models", "llama")` imports `meristem/models/llama.py`.

No central list exists, so adding a family, objective, codec or task is adding one file. Code outside this repository
is named by its full dotted path on the Python side only (`load("models", "lab.models.mine")`); names that come from a
file never reach this function with a dot in them (see `core.config`).
"""
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from meristem.core.errors import RequestError, nearest

# files of a folder that are its common ground, not entries
SHARED = {"base", "chat", "render", "image", "files", "ahead", "combine", "bank"}


def names(kind: str) -> list[str]:
    """Every entry of one kind ("models", "objectives", "evals.tasks"), found by listing the folder; imports none."""
    folder = Path(__file__).parent.parent.joinpath(*kind.split("."))
    return sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")
                  and m.name not in SHARED)


def load(kind: str, name: str) -> ModuleType:
    """Import one entry by name; RequestError names the nearest ones when there is none."""
    if "." in name:
        return importlib.import_module(name)
    known = names(kind)
    if name not in known:
        raise RequestError(f"no {kind.split('.')[-1]} entry {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"meristem.{kind}.{name}")
