"""One text-to-text network for several tasks beside one network a task (T5, row A9 of the feature table).

    python -m benchmarks.text_to_text --out runs/text_to_text [--polarity sentence_polarity.zip]

Tasks, told apart by the words an input begins with: `sort` the letters of a word, `reverse` it, `translate` a number
from Roman to decimal, `transcribe` a sentence of a made-up language word by word with the adjective moved behind its
noun, and, with NLTK's sentence_polarity.zip, `sentiment`, 4,000 rows of each. Everything made is a function of the
seed. The network of all tasks trains for the recipe's steps; each network of one task for one epoch of its own rows,
and with --passes for as many as the other made. Scores are exact matches on test rows that no network has seen; beside
`sentiment` stands logistic regression on its words. The same call goes on where it was; the table is
benchmarks/results/text_to_text.json.
"""
import argparse
import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from benchmarks.encoders import on_word_counts
from meristem.core.config import edit, parse_edits
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.corpus.labelled import labelled
from meristem.data.pairs import Pairs, texts
from meristem.generate.seq2seq import answers
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.run import codec_of, pretrain

EACH, ASKED = 4000, 200
ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
         (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
NOUNS = {"dog": "kel", "cat": "mio", "house": "dras", "tree": "vent", "river": "olu", "bird": "pirr", "stone": "gath",
         "child": "nin"}
ADJECTIVES = {"red": "su", "old": "bara", "small": "ti", "quiet": "mell", "bright": "oshi", "heavy": "dorr"}
VERBS = {"sees": "vat", "follows": "lorim", "finds": "echa", "likes": "suno", "carries": "bregg", "hears": "hali"}
Rows = list[tuple[str, str]]


def roman(number: int) -> str:
    """A number in Roman letters, lower case."""
    out = ""
    for value, letters in ROMAN:
        out += letters * (number // value)
        number %= value
    return out


def made(seed: int) -> dict[str, Rows]:
    """EACH rows of every made task, all different."""
    rng = np.random.default_rng(seed_of(seed, "tasks"))
    tasks: dict[str, dict[str, str]] = {"sort": {}, "reverse": {}, "transcribe": {}}
    while min(map(len, tasks.values())) < EACH:
        word = "".join(rng.choice(list("abcdefghijklmnopqrst"), rng.integers(3, 9)))
        tasks["sort"][f"sort: {word}"] = "".join(sorted(word))
        tasks["reverse"][f"reverse: {word}"] = word[::-1]
        a, b = (str(x) for x in rng.choice(list(NOUNS), 2))
        p, q = (str(x) for x in rng.choice(list(ADJECTIVES), 2))
        v = str(rng.choice(list(VERBS)))
        tasks["transcribe"][f"transcribe: {p} {a} {v} {q} {b}"] = (
            f"{NOUNS[a]} {ADJECTIVES[p]} {VERBS[v]} {NOUNS[b]} {ADJECTIVES[q]}")
    numbers = {f"translate: {roman(n)}": str(n) for n in range(1, 4000)}
    return {"translate": list(numbers.items()), **{name: list(rows.items())[:EACH] for name, rows in tasks.items()}}


def polarity(path: Path, longest: int, seed: int) -> Rows:
    """EACH rows of NLTK's sentence_polarity.zip (Pang & Lee 2005), letters and spaces only, that fit a context."""
    rows: Rows = []
    with zipfile.ZipFile(path) as archive:
        for name, label in (("neg", "bad"), ("pos", "good")):
            member = next(n for n in archive.namelist() if n.endswith(f".{name}"))
            for text in archive.read(member).decode("latin-1").splitlines():
                plain = " ".join("".join(c if c.isascii() and c.isalpha() else " " for c in text.lower()).split())
                rows.append((f"sentiment: {plain}", label))
    fit = [row for row in dict(rows).items() if len(row[0]) < longest]
    return [fit[i] for i in np.random.default_rng(seed_of(seed, "polarity")).permutation(len(fit))[:EACH]]


def run(name: str, rows: Rows, out: Path, recipe: Run, passes: float = 0) -> tuple[Path, float]:
    """Train the recipe on some rows, for so many passes over them (0: as long as it says); the run folder, and the
    passes that it made."""
    path = out / f"{name.partition('-')[0]}.jsonl"
    if not path.exists():
        path.write_text("".join(json.dumps({"input": a, "target": b}) + "\n" for a, b in rows))
    recipe = edit(recipe, {"data.corpus": str(path)})
    corpus, t = labelled(path), recipe.train
    source = Pairs(texts(corpus, "train"), codec_of(recipe.data.codec, corpus), t.context, t.batch, 0)
    epoch = len(source.rows["tokens"]) / t.batch
    if passes:
        steps = math.ceil(passes * epoch)
        recipe = edit(recipe, {"train.steps": steps, "train.warmup": min(t.warmup, steps // 5 + 1),
                               "train.validate_every": 0})
    return pretrain(recipe, out / name), recipe.train.steps / epoch


def exact(folder: Path, rows: Rows) -> float:
    """The share of rows that a run's network answers exactly."""
    loaded = hf.load(folder)
    assert loaded.codec is not None
    said = answers(loaded.module, loaded.codec, [source for source, _ in rows], length=48)
    return float(np.mean([one == target for one, (_, target) in zip(said, rows, strict=True)]))


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--polarity", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", action="store_true", help="one network a task for as many passes, too")
    parser.add_argument("--edits", nargs="*", default=[], help="fields of the recipe, train.steps=2000")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    recipe = edit(recipes()["text_to_text"](), {"seed": given.seed, "train.compile": False, **parse_edits(given.edits)})
    tasks = made(given.seed)
    if given.polarity:
        tasks["sentiment"] = polarity(given.polarity, recipe.train.context, given.seed)
    together, passes = run("together", [row for rows in tasks.values() for row in rows], given.out, recipe)
    test = texts(labelled(given.out / "together.jsonl"), "test")
    table: dict[str, Any] = {}
    for name, rows in tasks.items():
        asked = [row for row in test if row[0].startswith(f"{name}:")][:ASKED]
        alone, _ = run(name, rows, given.out, recipe, 1)
        trained = texts(labelled(given.out / f"{name}.jsonl"), "train")
        assert not {*trained, *texts(labelled(given.out / "together.jsonl"), "train")} & {*asked}
        table[name] = {"asked": len(asked), "together": exact(together, asked), "one_epoch": exact(alone, asked),
                       "one_epoch_steps": json.loads((alone / "result.json").read_text())["step"]}
        if given.passes:
            table[name]["same_passes"] = exact(run(f"{name}-passes", rows, given.out, recipe, passes)[0], asked)
        if name == "sentiment":
            table[name] |= on_word_counts(trained, asked, given.seed, forest=False)
        print(name, table[name], flush=True)
    result = json.loads((together / "result.json").read_text())
    record("text_to_text", {"seed": given.seed, "tasks": table, "steps": result["step"], "passes": round(passes, 2),
                            "flops": result["flops"], "cpu_minutes": round((time.process_time() - started) / 60, 1)})


if __name__ == "__main__":
    main()
