"""`meristem curate`: raw files to a corpus folder with a ledger of every decision."""
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meristem.cli.common import Answer, inputs, shell
from meristem.cli.display import shown
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.corpus.store import Corpus

MEDIA = ("pictures", "films", "sounds")  # KIND:FOLDER, sifted by data/sieve.py
# KIND:FOLDER, and the file of meristem/data that reads it
FOLDERS = {"robot": "demonstrations", "sprites": "sprites", "medicine": "medicine", "nlvr": "nlvr",
           "emoji": "emoji"}


def curate(
    paths: Annotated[list[Path] | None, typer.Argument(
        metavar="INPUT", help="Files, folders, archives (WARC, ARC, WET, tar), tables (jsonl, csv, parquet; .gz and "
        ".zst), HTML, PDF, FASTA; REPOSITORY/.git gives its commits; the word stdlib is this machine's Python "
        "standard library; toy:KIND FIELD=VALUE makes procedural text (mapping, arithmetic, needle) or pictures "
        "(scenes, looks, objects, digits, strokes, cues), films (clips), demonstrations (gridworld) or proteins "
        "(residues); pictures:PATH, films:PATH and sounds:PATH are folders of such files, rows that name them, or "
        "tars of them, to be sifted (a folder of nothing else needs no word before it); robot:PATH is a folder of a "
        "robot's demonstrations, sprites:PATH one of sprite sheets, medicine:PATH of medical sets; hub:ORG/NAME is a "
        "data set of the Hugging Face Hub.",
        show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="The corpus folder to write.")] = Path("runs/corpus"),
    seed: Annotated[int, typer.Option(help="Names the split and the sample.")] = 0,
    limit: Annotated[str, typer.Option(help="Keep a sample of about this size: 500k, 20M; 0 = everything.")] = "0",
    stages: Annotated[str, typer.Option(help="What documents go through, in order: names of corpus/stages, each with "
                                        "its settings, as in 'repair language:keep=en,de rules'.")] = "rules",
    text: Annotated[str, typer.Option(help="The column of tables that holds the text; empty = the usual names.")] = "",
    workers: Annotated[int, typer.Option(help="Processes; 0 = all cores for inputs over 64 MB, else one.")] = 0,
    engine: Annotated[str, typer.Option(help="Where the work is done: local, daft, ray (started here), or "
                                        "ray://HOST:PORT, a cluster; the corpus is the same.")] = "local",
    undo: Annotated[str, typer.Option(metavar="RULE", help="Take back what this rule dropped from the corpus OUT "
                                      "(several with commas); their documents are read again.")] = "",
    explain: Annotated[str, typer.Option(metavar="DOC", help="Say why this document (path or id) is in the corpus OUT "
                                         "or is not, and decide again; reads nothing else.")] = "",
) -> Answer:
    """Raw files to a corpus: read, filter, drop duplicates, split; every decision in a ledger.

    Exact and near duplicates (MinHash) are dropped with the twin named, documents are split into train, validation and
    test by their hash, and ledger.jsonl says for each document what happened to it and why.

    Example: meristem curate ~/notes src/ --out runs/corpus

    Stopped or killed, the same command goes on where it was.

    Example: meristem curate crawl.warc.gz --stages "repair language:keep=en gopher c4 fineweb" --out runs/web

    Example: meristem curate --explain notes/a.md --out runs/corpus

    Example: meristem curate --undo c4_bracket --out runs/web

    Example: meristem curate toy:mapping documents=2000 --out runs/mapping

    Exit status: 0 ok; 1 the machine failed (a full disk); 2 the request was wrong (an empty folder, a foreign OUT).
    """
    from meristem.corpus import curate as stage
    from meristem.corpus import toy
    from meristem.corpus.find import standard_library
    if explain:
        return _explained(out, explain)
    if undo:
        return _undone(out.expanduser(), undo)
    if not paths:
        raise RequestError("nothing to read: INPUT is a file, a folder, or the word stdlib")
    if str(paths[0]).startswith(toy.PREFIX):
        name, fields = str(paths[0])[len(toy.PREFIX):], _fields(paths[1:], seed)
        if name in ("scenes", "looks", "gridworld", "babyai", "arm", "clips",
                    "objects", "edits", "digits", "strokes", "cues",
                    "residues", "tones", "waves", "senses", "shadows"):
            return _answer(importlib.import_module(f"meristem.data.{name}").make(out.expanduser(), fields))
        return _answer(toy.make(name, out.expanduser(), fields))
    kind, _, where = str(paths[0]).partition(":")
    if not where and len(paths) == 1 and (found := _kind_of(paths[0].expanduser())):
        kind, where = found, str(paths[0])
    if kind in FOLDERS:
        (source,) = inputs([Path(where)])
        return _answer(importlib.import_module(f"meristem.data.{FOLDERS[kind]}").make(source, out.expanduser(), seed))
    if kind in MEDIA and where:
        return _answer(_sifted(kind, [where, *map(str, paths[1:])], out.expanduser(), seed))
    if kind == "hub" and where:
        from meristem.hub.cache import dataset
        paths = [dataset(where, out.expanduser()), *paths[1:]]
    sources = [file for p in paths for file in (standard_library() if str(p) == "stdlib" else inputs([p]))]
    with shown("curate") as progress:
        corpus = stage.curate(sources, out.expanduser(), seed=seed, limit_bytes=_bytes(limit),
                              stages=stages.split(), text=text, workers=workers, where=engine, progress=progress)
    return _answer(corpus)


def _kind_of(path: Path) -> str:
    """What a folder or tar holds nothing but; "" for texts and mixtures."""
    from meristem.corpus import pictures
    from meristem.data.demonstrations import is_one
    return "robot" if is_one(path) else MEDIA[0] if pictures.is_media(path) else ""


def _sifted(kind: str, paths: list[str], out: Path, seed: int) -> "Corpus":
    """What one folder, tar or file of rows holds and passes the rules of `data.sieve`."""
    from meristem.core.files import claimed, read_json
    from meristem.corpus.labelled import is_labelled, labelled
    from meristem.corpus.store import SUMMARY
    from meristem.data.sieve import Sieve
    source = Path(paths[0]).expanduser()
    if len(paths) > 1 or not is_labelled(source):
        raise RequestError(f"{kind}:{source} is one folder of {kind}, one .jsonl of rows that name them or one tar of "
                           "them; name one that exists, alone")
    with claimed(out, "corpus", lambda folder: (folder / SUMMARY).is_file()
                 and read_json(folder / SUMMARY)["inputs"] == [str(source.resolve())]), shown("curate"):
        return labelled(source, out, seed=seed, sieve=Sieve())


def _explained(out: Path, what: str) -> Answer:
    from meristem.corpus.explain import explain, told
    from meristem.corpus.store import Corpus
    rows = explain(Corpus.open(out.expanduser()), what)
    return Answer({"documents": rows}, told(rows))


def _undone(out: Path, rules: str) -> Answer:
    from meristem.corpus.store import Corpus
    from meristem.corpus.undo import undo
    return _answer(undo(Corpus.open(out), [rule.strip() for rule in rules.split(",") if rule.strip()]))


def _answer(corpus: "Corpus") -> Answer:
    facts = {"corpus": str(corpus.folder), "hash": corpus.hash, **corpus.summary}
    recipe = "llama"
    if (corpus.folder / "train.tar").is_file():
        heard = "audio" in next(corpus.documents("test")).fields
        recipe = "clip" if not heard else "spoken" if corpus.summary.get("labels") else "wav2vec2"
    then = shell("meristem", "pretrain", recipe, f"data.corpus={corpus.folder}")
    return Answer(facts, f"{corpus.folder}: {corpus.describe()}\nnext: {then}")


def _fields(words: list[Path], seed: int) -> dict[str, Any]:
    """The fields of a toy text: `documents=200` and the like, and --seed."""
    from meristem.core.config import parse_edits
    return {**({"seed": seed} if seed else {}), **parse_edits(map(str, words))}


def _bytes(text: str) -> int:
    """'20M' -> 20,000,000."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    digits = text if scale == 1 else text[:-1]
    try:
        return int(float(digits) * scale)
    except (ValueError, OverflowError):
        raise RequestError(f"--limit {text!r} is not a size; write 500k, 20M or 0") from None
