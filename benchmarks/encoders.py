"""What pretraining is worth: a small BERT fine-tuned on 200 labels, beside the same network from nothing, five seeds.

    python -m benchmarks.encoders SENTENCES                 # a folder with rt-polarity.pos and .neg, or a zip of it

Sentence polarity (Pang & Lee 2005): 10,662 sentences of film reviews, half of them positive. 2,000 are held out by a
hash of their text; masked words are predicted on the others without their labels. Then, for each seed, 200 labels (100
a class) are drawn from the others and both networks are fine-tuned on the same rows in the same order. The score is
accuracy on the 2,000; the interval is of the paired difference over seeds (Student's t), and a bag-of-words logistic
regression on the same 200 labels stands beside. Interrupted, the same command goes on.
"""
import argparse
import json
import math
import re
import statistics
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import meristem
from benchmarks.common import record
from meristem.core.files import digest_bytes
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.corpus.labelled import labelled
from meristem.generate.encode import classify
from meristem.recipes import resolve
from meristem.train.run import pretrain

TEST, LABELS, VALIDATION = 2000, 200, 500
T_95 = {4: 2.776}                       # Student's t at 97.5 %, by degrees of freedom


def sentences(path: Path) -> list[tuple[str, str]]:
    """(text, label) of every sentence, each text once, sorted by a hash of it."""
    found: dict[str, str] = {}
    for label in ("neg", "pos"):
        name = f"rt-polarity.{label}"
        if path.is_dir():
            raw = (path / name).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                raw = archive.read(next(n for n in archive.namelist() if n.endswith(name)))
        for text in raw.decode("latin-1").split("\n"):
            if text.strip():
                found.setdefault(text.strip(), label)
    return sorted(found.items(), key=lambda row: digest_bytes(row[0]))


def corpora(rows: list[tuple[str, str]], out: Path, seeds: int) -> tuple[Path, list[Path]]:
    """The corpus without the test rows' text in train, and one of 200 labels for each seed."""
    test, rest = rows[:TEST], rows[TEST:]

    def write(folder: Path, train: list[tuple[str, str]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for split, some in (("train", train), ("validation", rest[:VALIDATION]), ("test", test)):
            lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in some]
            (folder / f"{split}.jsonl").write_text("".join(lines))
        return labelled(folder, out / f"{folder.name}.corpus").folder
    few = []
    for seed in range(seeds):
        order = np.random.default_rng(seed_of(seed, "labels")).permutation(range(VALIDATION, len(rest)))
        chosen = [rest[i] for label in ("neg", "pos") for i in [i for i in order if rest[i][1] == label][:LABELS // 2]]
        few.append(write(out / f"labels-{seed}", chosen))
    return write(out / "text", rest[VALIDATION:]), few


def accuracy(folder: Path, rows: list[tuple[str, str]]) -> float:
    """Share of right classes."""
    model = meristem.load(folder)
    shares = classify(model.module, model.codec, [text for text, _ in rows], cut=True)
    return float(np.mean([model.config.labels[i] == label
                          for i, (_, label) in zip(shares.argmax(1).tolist(), rows, strict=True)]))


def bag_of_words(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    """Accuracy of L2-regularised logistic regression on word counts, by full-batch gradient steps."""
    words = Counter(w for text, _ in train for w in set(re.findall(r"\w+", text.lower())))
    index = {w: i for i, w in enumerate(sorted(words))}

    def counts(rows: list[tuple[str, str]]) -> torch.Tensor:
        x = torch.zeros(len(rows), len(index))
        for n, (text, _) in enumerate(rows):
            for w in re.findall(r"\w+", text.lower()):
                if w in index:
                    x[n, index[w]] += 1
        return x
    x, y = counts(train), torch.tensor([float(label == "pos") for _, label in train])
    weights, bias = torch.zeros(len(index), requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + bias, y, reduction="sum")
        value = value + 0.5 * weights.square().sum()
        value.backward()
        return value
    optimizer.step(loss)
    with torch.no_grad():
        guess = counts(test) @ weights + bias > 0
    return float(np.mean([bool(g) == (label == "pos") for g, (_, label) in zip(guess, test, strict=True)]))


def rows_of(folder: Path, split: str) -> list[tuple[str, str]]:
    """(text, label) of a corpus's split."""
    lines = (folder / f"{split}.jsonl").read_text().splitlines()
    return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def run_all(rows: list[tuple[str, str]], out: Path, seeds: int, edits: dict[str, object]) -> dict:
    """Pretrain once a seed, fine-tune twice a seed, judge; the table as a mapping."""
    text, few = corpora(rows, out, seeds)
    test = rows_of(text, "test")
    table: dict[str, list[float]] = {"pretrained": [], "scratch": [], "bag_of_words": []}
    started = time.perf_counter()
    run, _ = resolve("roberta", {"data.corpus": str(text), **edits})
    base = pretrain(run, out / "base")
    result = json.loads((base / "result.json").read_text())
    codec = {"data.codec.vocab": run.data.codec.fields["vocab"]}
    for seed, folder in enumerate(few):
        tune: Run = replace(resolve("classify", codec)[0], seed=seed)
        tune = replace(tune, data=replace(tune.data, corpus=str(folder)),
                       train=replace(tune.train, compile=run.train.compile, dtype=run.train.dtype))
        fine = pretrain(replace(tune, base=str(base)), out / f"fine-{seed}")
        bare = pretrain(from_nothing(tune, base), out / f"bare-{seed}")
        table["pretrained"].append(accuracy(fine, test))
        table["scratch"].append(accuracy(bare, test))
        table["bag_of_words"].append(bag_of_words(rows_of(folder, "train"), test))
        print({key: values[-1:] for key, values in table.items()}, flush=True)
    gain = [a - b for a, b in zip(table["pretrained"], table["scratch"], strict=True)]
    spread = T_95.get(len(gain) - 1, math.nan) * statistics.stdev(gain) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return {"rows": len(rows), "test": len(test), "labels": LABELS, "seeds": seeds,
            **{key: [round(v, 4) for v in values] for key, values in table.items() if values},
            "gain_points": round(100 * statistics.mean(gain), 2), "interval_points": round(100 * spread, 2),
            "masked_validation": result["validation"], "masked_steps": result["step"],
            "minutes": round((time.perf_counter() - started) / 60, 1)}


def from_nothing(tune: Run, base: Path) -> Run:
    """The same fine-tuning of new weights: the base's shape and tokenizer, none of its numbers."""
    loaded = meristem.load(base)
    torch.manual_seed(seed_of(tune.seed, "weights"))
    module = type(loaded.module)(loaded.config)
    fresh = base.parent / f"fresh-{tune.seed}"
    if not (fresh / "config.json").is_file():
        meristem.save(replace(loaded, module=module), fresh)
    return replace(tune, base=str(fresh))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--seeds", type=int, default=5, choices=(1, 5))
    parser.add_argument("edits", nargs="*", help="fields of the roberta recipe, train.steps=3000")
    given = parser.parse_intermixed_args()
    from meristem.core.config import parse_edits
    record("encoders", run_all(sentences(given.sentences), given.out, given.seeds, parse_edits(given.edits)))
