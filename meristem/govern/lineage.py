"""The chain of hashes corpus -> tokens -> run -> model -> adapter, exports, scores; `verify` recomputes what can be.

    broken = [link for link in verify(Path("runs/x")) if link.ok is False]

A link that cannot be checked because its file is elsewhere has ok = None: absent evidence never counts as good.
"""
import json
from dataclasses import dataclass
from pathlib import Path

from meristem.core import files
from meristem.govern.facts import RunFacts, corpus_of, gather_run

EXPORTS = "exports.jsonl"


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
    out.append(_tokens(run))
    if (run.folder / "model").is_dir() or not (run.folder / "adapter").is_dir():
        trouble = files.verify(run.folder / "model")
        out.append(Link("model files", weights.get("weights", ""), not trouble, trouble))
    if (run.folder / "adapter").is_dir():
        out += _adapter(run)
    out += [Link(f"checkpoint {path.name}", "", not (trouble := files.verify(path)), trouble)
            for path in sorted((run.folder / "checkpoints").glob("step-*"))]
    out += [_export(row, weights.get("weights")) for row in exports(run.folder)]
    if (run.folder / "bom.json").is_file():
        told = files.read_json(run.folder / "bom.json")["metadata"]["component"]["version"]
        made = str(weights.get("weights") or run.result.get("model") or "")[:12]
        out.append(Link("bill of materials", told, told == made, "" if told == made else "it is of other weights"))
    if run.result.get("model") and weights:
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


def _tokens(run: RunFacts) -> Link:
    """The tokenised corpus that the batches were read from."""
    wanted, where, codec = run.manifest.get("shards", ""), corpus_of(run), run.manifest.get("codec", "")
    folder = where / "tokens" / codec if where and codec else None
    if folder is None or not folder.is_dir():
        return Link("tokens of the corpus", wanted, None, "they are not here; a run makes them again")
    trouble = files.verify(folder)
    same = wanted == files.digest_bytes(run.manifest.get("corpus", ""), codec)
    return Link("tokens of the corpus", wanted, not trouble and same,
                trouble or ("" if same else "the run names tokens of another corpus or tokenizer"))


def _adapter(run: RunFacts) -> list[Link]:
    """An adapter's files, and the base that it says it belongs to."""
    folder = run.folder / "adapter"
    trouble = files.verify(folder)
    out = [Link("adapter files", "", not trouble, trouble)]
    note = folder / "meristem.json"
    if note.is_file() and run.manifest.get("base"):
        out.append(_equal("base of the run and of its adapter", run.manifest["base"],
                          files.read_json(note).get("base")))
    return out


def exports(run: Path) -> list[dict[str, str]]:
    """What was exported from a run: {"out", "to", "model", "files"}, a line each of exports.jsonl."""
    path = run / EXPORTS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def exported(run: Path, out: Path, to: str) -> None:
    """Add a folder that was just written to the run's exports."""
    row = {"out": str(out.resolve()), "to": to, "model": gather_run(run).weights.get("weights", ""),
           "files": tree_hash(out)}
    with open(run / EXPORTS, "a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def tree_hash(folder: Path) -> str:
    """One hash of every file of a folder and its name, manifests and cards aside: those are rewritten."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in (files.MANIFEST, "README.md")]
    return files.digest_bytes(*(part for p in paths for part in (p.relative_to(folder).as_posix(), files.digest(p))))


def _export(row: dict[str, str], weights: str | None) -> Link:
    out, what = Path(row["out"]), f"export {row['to']} in {row['out']}"
    if not out.is_dir():
        return Link(what, row["files"], None, "it is not there")
    if row["model"] != (weights or ""):
        return Link(what, row["files"], False, "the model has been trained again since")
    same = tree_hash(out) == row["files"]
    return Link(what, row["files"], same, "" if same else "its files have changed since")


def _equal(what: str, a: str, b: str | None) -> Link:
    if b is None:
        return Link(what, a, None, "the model folder has no record of it")
    return Link(what, a, a == b, "" if a == b else f"the model folder says {b}")
