"""The chain of hashes corpus -> codec -> run -> model -> scores, and `verify`, which recomputes what can be.

    broken = [link for link in verify(Path("runs/x")) if link.ok is False]

A link that cannot be checked because its file is elsewhere has ok = None: absent evidence never counts as good.
"""
from dataclasses import dataclass
from pathlib import Path

from meristem.core import files
from meristem.govern.facts import RunFacts, corpus_of, gather_run


@dataclass(frozen=True)
class Link:
    """One check of the chain: what, the hash it is about, whether it holds (None: could not be checked), and why."""

    what: str
    hash: str
    ok: bool | None
    why: str


def verify(folder: Path) -> list[Link]:
    """Every link of a run folder's chain; RequestError when it is no run folder."""
    return links(gather_run(folder))


def links(run: RunFacts) -> list[Link]:
    """`verify` for facts already read."""
    manifest, weights = run.manifest, run.weights
    out = [_corpus(run)]
    for key in ("corpus", "codec", "base"):
        if manifest.get(key):
            out.append(_equal(f"{key} of the run and of its model", manifest[key], weights.get(key)))
    if run.recipe.base:
        parent = Path(run.recipe.base)
        beside = run.folder.resolve().parent / parent.parent.name / "model"
        found = next((p for p in (parent, beside) if p.is_dir()), None)
        trouble = files.verify(found) if found else ""
        out.append(Link("base model's files", manifest.get("base", ""), None if found is None else not trouble,
                        trouble or ("" if found else f"{parent} is not here")))
    trouble = files.verify(run.folder / "model")
    out.append(Link("model files", weights.get("weights", ""), not trouble, trouble))
    if run.result.get("model"):
        out.append(_equal("model of the result and its files", run.result["model"], weights.get("weights")))
    for score in run.scores:
        same = score["model_hash"] == weights.get("weights") and score["corpus_hash"] == manifest.get("corpus")
        out.append(Link(f"score {score['name']}", score["prompt_hash"], same,
                        "" if same else "it was computed for another model or corpus"))
    return out


def _corpus(run: RunFacts) -> Link:
    wanted, where = run.manifest.get("corpus", ""), corpus_of(run)
    if where is None:
        return Link("corpus files", wanted, None, f"{run.recipe.data.corpus or 'the corpus'} is not here")
    trouble = files.verify(where)
    if not trouble and files.read_json(where / "corpus.json").get("hash") != wanted:
        trouble = "the corpus there is not the one this run was trained on"
    return Link("corpus files", wanted, not trouble, trouble)


def _equal(what: str, a: str, b: str | None) -> Link:
    if b is None:
        return Link(what, a, None, "the model folder has no record of it")
    return Link(what, a, a == b, "" if a == b else f"the model folder says {b}")
