"""Recipes compose: typed functions that return a `Run`. The folder is the registry, as everywhere.

Every public function in a file of this folder that is annotated `-> Run` is a recipe, named by the function; its
docstring states the command, the CPU time and the score to expect. A user's own recipe is a YAML, TOML or JSON file
with the fields of `Run` (or a plan.json), and is named by its path wherever a recipe is asked for.

    run, origins = resolve("llama", {"train.lr": 1e-3})
"""
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meristem.core import registry
from meristem.core.config import edit, flat, from_dict, read_file, to_dict
from meristem.core.errors import RequestError, nearest
from meristem.core.run import Run

FILES = (".yaml", ".yml", ".toml", ".json")


@functools.cache
def recipes() -> dict[str, Callable[[], Run]]:
    """Every built-in recipe by name; a name defined twice is an error of ours."""
    found: dict[str, Callable[[], Run]] = {}
    for file in registry.names("recipes"):
        module = importlib.import_module(f"meristem.recipes.{file}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function)
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and signature.return_annotation is Run and not signature.parameters:
                assert name not in found, f"two recipes are called {name}"
                found[name] = function
    return dict(sorted(found.items()))


def resolve(name: str, edits: Mapping[str, Any] | None = None) -> tuple[Run, dict[str, str]]:
    """The `Run` of a recipe name or file with `edits` applied, and where each flat field comes from.

    Origins are "default", "recipe NAME", "file PATH" or "edit". RequestError lists every mistake at once.
    """
    path = Path(name).expanduser()
    if path.suffix in FILES or path.is_file():
        tree = read_file(path)
        tree = tree["run"] if isinstance(tree.get("run"), dict) else tree      # a plan, which says what to train
        run, source, given = from_dict(Run, {"name": path.stem, **tree}), f"file {name}", set(flat(tree))
    else:
        if name not in recipes():
            raise RequestError(f"no recipe {name!r}; {nearest(name, recipes())} (files end in {', '.join(FILES)})")
        run, source, given = recipes()[name](), f"recipe {name}", set()
    plain = flat(to_dict(Run(name="")))
    before = flat(to_dict(run))
    origins = {key: source if key in given or key not in plain or plain[key] != value else "default"
               for key, value in before.items()}
    run = edit(run, edits or {})
    for key, value in flat(to_dict(run)).items():
        if before.get(key, before) != value or key in (edits or {}):
            origins[key] = "edit"
    return run, {key: origins[key] for key in flat(to_dict(run))}
