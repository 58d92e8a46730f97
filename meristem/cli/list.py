"""`meristem list`: what can be named in the other verbs."""
import ast
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, table
from meristem.core.errors import RequestError, nearest

KINDS = {"families": "models", "objectives": "objectives", "codecs": "codecs", "adapters": "adapt",
         "tasks": "evals.tasks"}


def list_entries(
    kind: Annotated[str, typer.Argument(help=f"recipes, {', '.join(KINDS)}; none = all.", show_default=False)] = "",
) -> Answer:
    """List recipes, families, objectives, codecs, adapters and tasks: everything that other verbs take by name.

    The folders are the registry: adding a file adds an entry.

    Example: meristem list recipes

    Exit status: 0 ok; 2 no such kind.
    """
    kinds = ["recipes", *KINDS]
    if kind and kind not in kinds:
        raise RequestError(f"no kind {kind!r}; {nearest(kind, kinds)}")
    chosen = [kind] if kind else kinds
    facts = {k: entries(k) for k in chosen}
    return Answer(facts, "\n".join(f"{k}\n{table(sorted(rows.items()))}" for k, rows in facts.items()))


def entries(kind: str) -> dict[str, str]:
    """Name -> first line of its docstring; sources are read, not imported, so that this stays instant."""
    from meristem.core import registry
    if kind == "recipes":
        from meristem.recipes import recipes
        return {name: _first(function.__doc__) for name, function in recipes().items()}
    folder = KINDS[kind]
    root = Path(registry.__file__).parent.parent.joinpath(*folder.split("."))
    return {name: _first(ast.get_docstring(ast.parse((root / f"{name}.py").read_text(encoding="utf-8"))))
            for name in registry.names(folder)}


def _first(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
