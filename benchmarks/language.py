"""What small models do with text: rows B6, B12 and B13 of the feature table, a part each.

    python -m benchmarks.language DATA --out FOLDER [--part sentences|prose|names] [--seed 0] [--tiny]

DATA holds tinyshakespeare and wikitext2-evalsplits. `sentences`: a decoder of 1 M parameters reads both, whole
articles and scenes apart, then tasks `cloze` and `next_sentence` (B13). `prose`: three widths of it on the plays alone,
equally many tokens, and task `prose` (B6: the area falls as the model grows). `names`: recipe `classify` with a head
over tokens finds people, places and firms in made-up sentences (B12); every name of the test is new, form and letters
tell nothing about its class, half of the test has sentences of a kind that training has not; F1 counts whole names with
the right class, beside a list of the training's words, with the usual label of a rare one for unknown ones in capitals.
Interrupted, the same command goes on.
"""
import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.adaptation import write
from benchmarks.common import record
from meristem.core.config import edit, to_dict
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.corpus.labelled import labelled
from meristem.data.encoders import rows_of
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.run import pretrain

PIECE = 1200                            # characters of a play that are one document
WIDTHS = (32, 64, 128)
SYLLABLES = ("ba", "cor", "den", "fal", "gri", "hol", "jan", "kes", "lum", "mar", "nev", "ost", "pel", "quin", "ros",
             "sil", "tam", "ul", "vor", "wen", "yar", "zel")
KNOWN = (
    "{P} flew to {L} for {O} in May .", "{O} opened an office in {L} on Monday .",
    "The chief of {O} , {P} , resigned .", "In {L} the police asked {P} about it .",
    "{P} and {P} met at the station of {L} .", "Shares of {O} fell in {L} .", "Last year {P} married in {L} .",
    "We bought it from {O} .", "{O} sued {O} over a contract .", "Nobody in {L} had heard of {P} .",
    "It rained in {L} and in {L} .", "{P} works at {O} as an engineer .", "The road from {L} to {L} was closed .",
    "Doctor {P} said that {O} knew .", "A spokesman for {O} met {P} on Friday .", "{P} was born in {L} .",
    "Prices at {O} rose in June .", "They sent {P} a letter from {L} .")
NEW = ("After the talks {P} left {L} .", "{O} hired {P} .", "The mayor of {L} thanked {O} .",
       "Tickets to {L} are sold by {O} .", "{P} wrote a book about {L} .", "On Sunday {O} will close its shop in {L} .")
CLASSES = {"P": "PERSON", "L": "PLACE", "O": "FIRM"}
Spans = set[tuple[int, int, str]]


def plays(data: Path) -> list[str]:
    """The plays in pieces that end with a speech."""
    out, piece = [], ""
    for speech in (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8").split("\n\n"):
        piece += speech + "\n\n"
        if len(piece) >= PIECE:
            out.append(piece.strip())
            piece = ""
    return out


def articles(data: Path) -> list[str]:
    """WikiText's articles."""
    out: list[str] = []
    for name in ("valid.txt.gz", "test.txt.gz"):
        with gzip.open(data / "wikitext2-evalsplits" / name, "rt", encoding="utf-8") as f:
            parts = re.split(r"^ = [^=\n]+ = \n", f.read(), flags=re.MULTILINE)
        out += [" ".join(part.split()) for part in parts if len(part) > 500]
    return out


def corpus_of(texts: Sequence[str], folder: Path) -> Path:
    """Whole texts, eight tenths to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    if not path.is_file():
        path.write_text("".join(json.dumps({"text": t, "label": "text"}) + "\n" for t in texts), encoding="utf-8")
    return path


def decoder(rows: Path, out: Path, seed: int, tiny: bool, width: int = 128, steps: int = 400) -> Path:
    """A small Llama on some rows."""
    return pretrain(edit(recipes()["llama"](), {
        "seed": seed, "data.corpus": str(rows), "data.codec.vocab": 320 if tiny else 2048, "model.dim": width,
        "model.layers": 4, "model.heads": 4, "model.groups": 2, "model.hidden": 11 * width // 4, "model.tied": True,
        "model.qk_norm": True, "train.steps": 2 if tiny else steps, "train.batch": 2 if tiny else 16,
        "train.context": 128, "train.optimizer": "muon", "train.lr": 1e-2, "train.validate_every": 0,
        "train.sample_every": 0, "train.compile": False}), out)


def sentences(data: Path, out: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """Gaps filled and sentences continued."""
    texts = [*plays(data)[::8 if tiny else 1], *articles(data)[::4 if tiny else 1]]
    rows = corpus_of(texts, out / "sentences")
    run = decoder(rows, out / f"reader-{seed}", seed, tiny, steps=700)
    scores = evaluate(Subject.open(run), labelled(rows), ["cloze", "next_sentence"], limit=20 if tiny else 400)
    return {"documents": len(texts), "scores": [to_dict(s) for s in scores]}


def prose(data: Path, out: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """Three sizes."""
    rows = corpus_of(plays(data)[::8 if tiny else 1], out / "prose")
    found: dict[str, Any] = {}
    for width in WIDTHS[:1] if tiny else WIDTHS:
        run = decoder(rows, out / f"writer-{width}-{seed}", seed, tiny, width)
        subject = Subject.open(run)
        scores = evaluate(subject, labelled(rows), ["prose"], limit=12 if tiny else 200)
        result = json.loads((run / "result.json").read_text())
        found[str(width)] = {"validation": result["validation"],
                             "parameters": sum(p.numel() for p in subject.module.parameters()),
                             "scores": [to_dict(s) for s in scores]}
        print(width, [(s.name, round(s.value, 4)) for s in scores], flush=True)
    return found


def name_of(rng: np.random.Generator, test: bool) -> str:
    """A made-up word in capitals; those of the test are in no other split."""
    while True:
        word = "".join(SYLLABLES[i] for i in rng.integers(0, len(SYLLABLES), rng.integers(2, 4))).capitalize()
        if (seed_of("name", word) % 5 == 0) == test:
            return word


def tagged(rng: np.random.Generator, templates: Sequence[str], test: bool) -> tuple[list[str], list[str]]:
    """The words of one sentence and their labels (B- and I- of a class, or O)."""
    words, labels = list[str](), list[str]()
    for part in templates[rng.integers(len(templates))].split():
        kind = CLASSES.get(part[1:-1]) if part[0] == "{" else None
        some = [name_of(rng, test) for _ in range(int(rng.integers(1, 3)))] if kind else [part]
        words += some
        labels += [f"B-{kind}", *[f"I-{kind}"] * (len(some) - 1)] if kind else ["O"]
    return words, labels


def spans(labels: Sequence[str]) -> Spans:
    """(first word, one past the last, class) of every name; an I- without its B- begins one (as conlleval counts)."""
    out, start, kind = set(), 0, ""
    for at, label in enumerate([*labels, "O"]):
        inside = label.startswith("I-") and label[2:] == kind
        if kind and not inside:
            out.add((start, at, kind))
            kind = ""
        if label != "O" and not inside:
            start, kind = at, label[2:]
    return out


def told(run: Path, rows: Sequence[tuple[list[str], list[str]]]) -> list[list[str]]:
    """A label for each word of each sentence."""
    loaded = hf.load(run)
    config, out = loaded.config, list[list[str]]()
    assert loaded.codec is not None
    with evaluating(loaded.module), torch.no_grad():
        for start in range(0, len(rows), 50):
            some = rows[start:start + 50]
            marked = [(words, [config.labels[0]] * len(words)) for words, _ in some]     # a class where a word begins
            batch = rows_of(marked, loaded.codec, config.labels, config.context)
            best = loaded.module(batch["tokens"][:, :-1], batch["segments"]).argmax(-1)
            out += [[config.labels[i] for i in row[first].tolist()] for row, first in
                    zip(best, batch["labels"] >= 0, strict=True)]
    return out


def f1(rows: Sequence[tuple[list[str], list[str]]], said: Sequence[list[str]], seed: int) -> dict[str, Any]:
    """F1 of whole names, its interval a bootstrap over sentences."""
    pairs = [(spans(labels), spans(ours)) for (_, labels), ours in zip(rows, said, strict=True)]
    table = np.array([[2 * len(a & b), len(a) + len(b)] for a, b in pairs], dtype=float)
    draws = table[np.random.default_rng(seed).integers(0, len(table), (2000, len(table)))].sum(1)
    low, high = np.quantile(draws[:, 0] / np.maximum(1, draws[:, 1]), [0.025, 0.975])
    top, bottom = table.sum(0)
    return {"f1": round(top / max(1, bottom), 4), "low": round(float(low), 4), "high": round(float(high), 4),
            "sentences": len(table), "names": sum(len(a) for a, _ in pairs)}


def names(data: Path, out: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """People, places and firms."""
    def made(split: str, count: int, templates: Sequence[str]) -> list[tuple[list[str], list[str]]]:
        rng = np.random.default_rng(seed_of(0, "names", split, len(templates)))
        return [tagged(rng, templates, split == "test") for _ in range(count)]
    train = made("train", 60 if tiny else 4000, KNOWN)
    tests = {"known sentences": made("test", 20 if tiny else 300, KNOWN),
             "new sentences": made("test", 20 if tiny else 300, NEW)}
    def rows(some: Sequence[tuple[list[str], list[str]]]) -> list[dict[str, Any]]:
        return [{"words": w, "labels": lab} for w, lab in some]
    folder = write(out / "names", {"train": rows(train), "validation": rows(made("validation", 50, KNOWN)),
                                   "test": rows(tests["known sentences"])})
    recipe: Run = edit(recipes()["classify"](), {
        "seed": seed, "data.corpus": str(folder), "data.codec.vocab": 300, "model.head": "token", "model.dim": 96,
        "model.layers": 3, "train.steps": 2 if tiny else 400, "train.batch": 4 if tiny else 32, "train.optimizer":
        "muon", "train.lr": 5e-3, "train.compile": False})
    run = pretrain(recipe, out / f"tagger-{seed}")
    usual: dict[str, Counter[str]] = {}
    for words, labels in train:
        for word, label in zip(words, labels, strict=True):
            usual.setdefault(word, Counter())[label] += 1
    rare = Counter(label for word, some in usual.items() if word[0].isupper() and some.total() == 1 for label in some)
    capital = (rare or Counter(["O"])).most_common(1)[0][0]    # of a word in capitals that training has once

    def listed(words: Sequence[str]) -> Iterator[str]:
        for word in words:
            yield usual[word].most_common(1)[0][0] if word in usual else capital if word[0].isupper() else "O"
    found: dict[str, Any] = {}
    for kind, some in tests.items():
        found[kind] = {"model": f1(some, told(run, some), seed),
                       "list of names": f1(some, [list(listed(words)) for words, _ in some], seed)}
        print(kind, found[kind], flush=True)
    return found


PARTS: dict[str, Callable[[Path, Path, int, bool], dict[str, Any]]] = {
    "sentences": sentences, "prose": prose, "names": names}


def main() -> None:
    """Parse the command line and run the asked parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    given = parser.parse_args()
    for part in [given.part] if given.part else PARTS:
        start = time.process_time()
        found = PARTS[part](given.data, given.out, given.seed, given.tiny)
        record(f"language-{part}-{given.seed}{'-tiny' * given.tiny}", {
            "seed": given.seed, "cpu_minutes": round((time.process_time() - start) / 60, 2), **found})


if __name__ == "__main__":
    main()
