"""Few labels, and weak ones: spam (row I6) and weak labels that train a stronger network (row D-16).

    python -m benchmarks.labels DATA --out FOLDER [--part spam|oversight] [--tiny]

DATA holds banking77, sentence-polarity and mnist. `spam`: recipe `quality` and logistic regression on word counts learn
10, 50, 200 and 1,000 labels, three draws each. Wanted mail is real: commit messages of this checkout's git history,
customers' questions to a bank, sentences about films; spam is made from templates, and is asked for from those of
training and from others. Reported: the share of 300 held-out mails of each kind that is named right. `oversight` (Burns
et al. 2023, https://arxiv.org/abs/2312.09390): a small ResNet that has seen 100 labelled digits labels 4,000 others; a
larger one learns those labels, another of its kind the true ones. Reported: the share of the gap between weak and
ceiling that the student recovers, with a bootstrap over test digits, three seeds. Interrupted, the command goes on.
"""
import argparse
import csv
import gzip
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import write
from benchmarks.common import record
from benchmarks.encoders import on_word_counts
from benchmarks.encoders import sentences as films
from meristem.codecs.image import decode
from meristem.core.config import edit
from meristem.core.files import committed
from meristem.core.random import seed_of
from meristem.corpus.labelled import labelled
from meristem.corpus.linear import Linear
from meristem.data import strokes
from meristem.evals.judge import Judge
from meristem.evals.statistics import wilson
from meristem.recipes import recipes
from meristem.train.run import pretrain

COUNTS = (10, 50, 200, 1000)
OPENERS = ("Dear {who}, you have won {sum}!", "Congratulations {who}, {sum} is waiting for you.",
           "URGENT: your account at {firm} is locked.", "Make {sum} a week from home, {who}.",
           "Lowest prices on {ware}, today only.", "Hello {who}, I am the widow of a banker and need your help.",
           "Your parcel from {firm} could not be delivered.", "Hot offer: {ware} for half the price!")
OPENERS_NEW = ("{who}, claim your reward of {sum} before midnight.", "Final notice from {firm}: payment failed.",
               "Investors like {who} doubled {sum} in ten days.", "Doctors hate this: {ware} without prescription.")
CLOSERS = ("Click here: http://{host}/{code}", "Reply with your bank details.", "Call {number} now.",
           "Send a fee of 50 dollars first.", "Open the attached form.", "This offer ends in {hours} hours.")
CLOSERS_NEW = ("Visit {host} and enter the code {code}.", "Confirm your password to go on.",
               "Text YES to {number}.")
FILL: dict[str, Sequence[str]] = {
    "who": ("friend", "customer", "Sir or Madam", "winner", "member", "user"), "firm": ("PayQuick", "the bank",
    "ShopWorld", "FastParcel", "TeleNet"), "ware": ("watches", "pills", "handbags", "software", "loans", "phones"),
    "host": ("win-now.example", "secure-login.example", "best-deal.example", "fast-cash.example"),
    "sum": ("$1,000,000", "900 euros", "$5,000", "two million dollars", "a new phone")}
Rows = list[tuple[str, str]]


def spam_mail(rng: np.random.Generator, new: bool) -> str:
    """One made-up spam: an opener, sometimes a second one, and a closer."""
    openers, closers = (OPENERS_NEW, CLOSERS_NEW) if new else (OPENERS, CLOSERS)
    parts = [openers[i] for i in rng.choice(len(openers), int(rng.integers(1, 3)), replace=False)]
    text = " ".join([*parts, closers[rng.integers(len(closers))]])
    values = {key: some[rng.integers(len(some))] for key, some in FILL.items()}
    return text.format(**values, code=f"{rng.integers(10**6):06}", number=f"0800 {rng.integers(10**6):06}",
                       hours=int(rng.integers(2, 49)))


def wanted(data: Path) -> list[str]:
    """Commit messages, questions and sentences, mixed by a fixed seed."""
    log = subprocess.run(["git", "log", "-n", "700", "--format=%s%n%b%x00"], capture_output=True, text=True,
                         check=False)
    commits = [" ".join(text.split()) for text in log.stdout.split("\0")]
    with gzip.open(data / "banking77" / "train.csv.gz", "rt", encoding="utf-8") as f:
        bank = [row["text"] for row in csv.DictReader(f)][::10]
    film = [text for text, _ in films(data / "sentence-polarity" / "sentence_polarity.zip")[:900]]
    every = list(dict.fromkeys(text for text in (*commits, *bank, *film) if text))
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))]


def spam(data: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """Accuracy by labels, on spam of the training's templates and on spam of others."""
    fine = wanted(data)
    rng = np.random.default_rng(seed_of(0, "spam"))
    asked: dict[str, Rows] = {"wanted": [(text, "wanted") for text in fine[:300]],
                              "new templates": [(spam_mail(rng, True), "spam") for _ in range(300)]}
    checked: Rows = [(t, "wanted") for t in fine[300:350]] + [(spam_mail(rng, False), "spam") for _ in range(50)]
    known = [(t, "wanted") for t in fine[350:]], [(spam_mail(rng, False), "spam") for _ in range(1200)]
    asked["known templates"] = [(spam_mail(rng, False), "spam") for _ in range(300)]
    test = [row for rows in asked.values() for row in rows]
    found: dict[str, Any] = {"wanted mails": len(fine)}
    for count in COUNTS[:2] if tiny else COUNTS:
        hits: dict[str, list[float]] = {name: [] for name in asked}
        words: dict[str, list[float]] = {name: [] for name in asked if name != "wanted"}
        draws = 1 if tiny else 3
        for draw in range(draws):
            order = [np.random.default_rng(seed_of(draw, "mail", count)).permutation(len(some)) for some in known]
            rows = [some[i] for some, at in zip(known, order, strict=True) for i in at[:count // 2]]
            folder = write(out / f"mail-{count}-{draw}", {
                split: [{"text": t, "label": label} for t, label in some]
                for split, some in (("train", rows), ("validation", checked), ("test", test))})
            run = pretrain(edit(recipes()["quality"](), {
                "seed": draw, "data.corpus": str(folder), "data.codec.vocab": 2048, "train.context": 64,
                "train.steps": 4 if tiny else 200}), out / f"quality-{count}-{draw}")
            model = Linear.open(str(run))
            for name, some in asked.items():
                said = model.probabilities([t for t, _ in some]).argmax(1)
                hits[name] += [float(model.labels[i] == label) for i, (_, label) in zip(said, some, strict=True)]
            for name, values in words.items():
                values.append(on_word_counts(rows, asked["wanted"] + asked[name], draw, forest=False)["bag_of_words"])
        table: dict[str, Any] = {f"words, wanted and {name}": round(float(np.mean(v)), 4) for name, v in words.items()}
        for name, values in hits.items():                      # the draws are asked the same mails
            interval = wilson(round(sum(values) / draws), len(asked[name]))
            table[f"{name}, right"] = [round(float(np.mean(values)), 4), round(interval.low, 4),
                                       round(interval.high, 4)]
        found[str(count)] = table
        print(count, table, flush=True)
    return found


def digits(data: Path, out: Path, tiny: bool) -> Path:
    """MNIST's rows with their pictures (drawn digits where it is tiny)."""
    fields = {"documents": 300} if tiny else {"documents": 8000, "folder": str(data / "mnist")}
    strokes.make(out / "digits", fields)
    return out / "digits.rows"


def subset(source: Path, folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A corpus of some training rows, with the source's validation and test rows."""
    if not folder.is_dir():
        lines = {split: [json.loads(x) for x in (source / f"{split}.jsonl").read_text().splitlines()][:2000]
                 for split in ("validation", "test") if (source / f"{split}.jsonl").is_file()}
        with committed(folder) as whole:                       # half a copy is taken for none
            for split, some in {**lines, "train": list(rows)}.items():
                for row in some:
                    shutil.copyfile(source / row["image"], whole / row["image"])
                (whole / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return labelled(folder, folder.with_name(f"{folder.name}.corpus")).folder


def pixels_of(source: Path, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The pictures of some rows, uint8 [N, 3, 28, 28]."""
    return np.stack([decode((source / row["image"]).read_bytes(), 28) for row in rows])


def classifier(corpus: Path, out: Path, seed: int, wide: int, steps: int) -> Judge:
    """Recipe resnet of some width."""
    return Judge(pretrain(edit(recipes()["resnet"](), {
        "seed": seed, "data.corpus": str(corpus), "model.stem": wide, "model.widths": [wide, 2 * wide, 4 * wide],
        "train.steps": steps}), out))


def oversight(data: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """Weak to strong."""
    source = digits(data, out, tiny)
    rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()]
    few, many = (40, 100) if tiny else (100, 4000)
    found: dict[str, Any] = {}
    for seed in range(1 if tiny else 3):
        order = np.random.default_rng(seed_of(seed, "weak")).permutation(len(rows))
        own, rest = ([rows[i] for i in some] for some in (order[:few], order[few:few + many]))
        steps = (2, 2) if tiny else (300, 250)        # few digits take as many steps to be known
        weak = classifier(subset(source, out / f"few-{seed}", own), out / f"weak-{seed}", seed, 8, steps[0])
        told = weak.named(pixels_of(source, rest))
        student = classifier(subset(source, out / f"told-{seed}", [
            {**row, "label": label} for row, label in zip(rest, told, strict=True)]),
            out / f"student-{seed}", seed, 32, steps[1])
        ceiling = classifier(subset(source, out / f"true-{seed}", rest), out / f"ceiling-{seed}", seed, 32, steps[1])
        test = [json.loads(x) for x in (out / f"true-{seed}" / "test.jsonl").read_text().splitlines()]
        right = {name: np.array([float(a == row["label"]) for a, row in zip(
            judge.named(pixels_of(source, test)), test, strict=True)])
            for name, judge in (("weak", weak), ("student", student), ("ceiling", ceiling))}
        draws = np.random.default_rng(seed).integers(0, len(test), (2000, len(test)))
        mean = {name: values[draws].mean(1) for name, values in right.items()}
        gap = (mean["student"] - mean["weak"]) / np.maximum(1e-9, mean["ceiling"] - mean["weak"])
        share = {name: round(float(values.mean()), 4) for name, values in right.items()}
        recovered = (share["student"] - share["weak"]) / max(1e-9, share["ceiling"] - share["weak"])
        found[f"seed {seed}"] = {
            **share, "test": len(test),
            "weak labels right": round(float(np.mean([a == r["label"] for a, r in zip(told, rest, strict=True)])), 4),
            "recovered": [round(float(x), 3) for x in (recovered, *np.quantile(gap, [0.025, 0.975]))]}
        print(seed, found[f"seed {seed}"], flush=True)
    return found


PARTS: dict[str, Callable[[Path, Path, bool], dict[str, Any]]] = {"spam": spam, "oversight": oversight}


def main() -> None:
    """Parse the command line and run the asked parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for part in [given.part] if given.part else PARTS:
        start = time.process_time()
        found = PARTS[part](given.data, given.out, given.tiny)
        record(f"labels-{part}{'-tiny' * given.tiny}", {
            "cpu_minutes": round((time.process_time() - start) / 60, 2), **found})


if __name__ == "__main__":
    main()
