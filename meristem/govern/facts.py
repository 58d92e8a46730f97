"""What a run folder says about itself, read once: the only input of the card and the report.

`gather(folder)` takes a run folder (it has recipe.json) or a folder of runs that share a corpus, as quickstart writes:
OUT/{corpus/, plan.json, base/, fill/}. A file that is not there is a gap that the card and the report show as such;
a file that is there but malformed is a RequestError that names it.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.adapt.files import CONFIG, base_of
from meristem.core.config import from_dict
from meristem.core.errors import MeristemError, RequestError
from meristem.core.files import MANIFEST, read_json
from meristem.core.run import Run
from meristem.hub.cache import locate
from meristem.plan.history import OUTCOME

Tree = dict[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """One run folder. Trees are the JSON files as they stand, {} where there is none."""

    folder: Path
    name: str
    recipe: Run
    manifest: Tree
    result: Tree
    energy: Tree
    log: list[Tree]
    samples: list[Tree]
    evals: list[Tree]
    config: Tree                        # model/config.json
    weights: Tree                       # model/MANIFEST.json
    outcome: Tree                       # forecast.json: the plan, scored
    pictures: list[Path]                # what it painted while it trained, and overlays of its evaluations

    @property
    def adapted(self) -> bool:
        """Started from another model."""
        return bool(self.recipe.base)

    @property
    def sees(self) -> bool:
        """Whether it was trained on pictures."""
        return self.recipe.data.examples.startswith("picture")

    @property
    def scores(self) -> list[Tree]:
        """Every certificate, in the order of the task files."""
        return [score for task in self.evals for score in task["scores"]]


@dataclass(frozen=True)
class Facts:
    """A folder's runs, base models first, with the corpus and plan they share."""

    folder: Path
    runs: list[RunFacts]
    corpus: Tree
    corpus_folder: Path | None
    plan: Tree


def gather(folder: Path) -> Facts:
    """Read a run folder or a folder of runs; RequestError when it holds no run."""
    folders = [folder] if (folder / "recipe.json").is_file() else sorted(p.parent for p in folder.glob("*/recipe.json"))
    if not folders:
        raise RequestError(f"{folder} holds no run: neither it nor a folder in it has a recipe.json")
    runs = sorted(map(gather_run, folders), key=lambda r: (r.adapted, r.name))
    where = corpus_of(runs[0])
    plan = next((t for p in (folder, *folders, folder.parent) if (t := _tree(p / "plan.json"))), {})
    corpus = _tree(where / "corpus.json") if where else {}
    return Facts(folder, runs, corpus, where, {} if runs[0].adapted else plan)


def gather_run(folder: Path) -> RunFacts:
    """Read one run folder."""
    run = from_dict(Run, read_json(folder / "recipe.json"))
    manifest, result, energy = (_tree(folder / f"{name}.json") for name in ("manifest", "result", "energy"))
    return RunFacts(folder, folder.resolve().name, run, manifest, result, energy,
                    _lines(folder / "log.jsonl"), _lines(folder / "samples.jsonl"),
                    [_tree(p) for p in sorted((folder / "evals").glob("*.json"))],
                    _tree(folder / "model" / "config.json") or _base(folder / "adapter"),
                    _tree(folder / "model" / MANIFEST),
                    _tree(folder / OUTCOME),
                    [*sorted((folder / "samples").glob("*.png"), key=lambda p: (len(p.name), p.name)),
                     *sorted((folder / "evals").glob("*.png"))])


def corpus_of(run: RunFacts) -> Path | None:
    """Where the run's corpus lies now: at the recipe's path, or beside the run folder (which may have been moved)."""
    named = Path(run.recipe.data.corpus)
    places = [named, run.folder.resolve().parent / named.name]
    return next((p for p in places if run.recipe.data.corpus and (p / "corpus.json").is_file()), None)


def _base(adapter: Path) -> Tree:
    """config.json of the base of an adapter, for a run that left no plain weights; {} where it is not at hand."""
    if not (adapter / CONFIG).is_file():
        return {}
    try:
        return _tree(locate(base_of(adapter), adapter) / "config.json")
    except MeristemError:
        return {}


def _tree(path: Path) -> Tree:
    if not path.is_file():
        return {}
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise RequestError(f"{path}: expected a mapping, found {type(tree).__name__}")
    return tree


def _lines(path: Path) -> list[Tree]:
    """JSON lines; a torn last line (a kill in the middle of a write) is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
