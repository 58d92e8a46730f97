"""What pretraining is worth: a small BERT fine-tuned on 200 labels, beside the same network from nothing, five seeds.

    python -m benchmarks.encoders SENTENCES [--text ARCHIVE...]     # sentence_polarity.zip, or a folder of its files

Sentence polarity (Pang & Lee 2005): 10,662 sentences of film reviews, half of them positive. 2,000 are held out by a
hash of their text; masked words are predicted on the others without their labels, and on the texts inside further
archives (zip, tar; a test sentence that stands there is dropped). Then, for each seed, 200 labels (100 a class) are
drawn from the others and both networks are fine-tuned on the same rows in the same order. The score is accuracy on the
2,000; the interval is of the paired difference over seeds (Student's t), and logistic regression and a random forest on
the word counts of the same 200 rows stand beside. Interrupted, the same command goes on.

Pretraining has two parts, as in Nagatsuka et al. 2021 (https://aclanthology.org/2021.ranlp-1.112): `--short` steps on
rows of 16 tokens, then the recipe's own on rows of 64. On rows of 64 from the start the network stays at the frequency
of words for 6,000 steps and more (6.16 nats), on rows of 16 it has left that behind after 500 (5.53; docs/log.md).
"""
import argparse
import json
import math
import statistics
import tarfile
import time
import zipfile
from collections.abc import Iterator
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
SHORT = 16                              # tokens a row, at first
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


def more(paths: list[Path], apart: set[str]) -> list[str]:
    """The texts inside archives without those of `apart`: a short file is one, a long one has one a line."""
    found: dict[str, None] = {}
    for path in paths:
        for raw in members(path):
            text = raw.decode("latin-1")
            lines = text.split("\n") if len(text) > 100_000 else [text]
            found |= dict.fromkeys(" ".join(line.split()) for line in lines)
    return [text for text in found if text and text not in apart]


def members(path: Path) -> Iterator[bytes]:
    """The files of a zip or tar archive, but its README."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(n) for n in archive.namelist() if not n.endswith(("/", "README.txt")))
    else:
        with tarfile.open(path) as packed:
            files = [m for m in packed if m.isfile() and not m.name.endswith("README")]
            yield from (stream.read() for m in files if (stream := packed.extractfile(m)))


def corpora(rows: list[tuple[str, str]], out: Path, seeds: int, texts: list[str]) -> tuple[Path, list[Path]]:
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
    return write(out / "text", [*rest[VALIDATION:], *((text, "none") for text in texts)]), few


def accuracy(folder: Path, rows: list[tuple[str, str]]) -> float:
    """Share of right classes."""
    model = meristem.load(folder)
    shares = classify(model.module, model.codec, [text for text, _ in rows], cut=True)
    return float(np.mean([model.config.labels[i] == label
                          for i, (_, label) in zip(shares.argmax(1).tolist(), rows, strict=True)]))


def on_word_counts(train: list[tuple[str, str]], test: list[tuple[str, str]], seed: int,
                   forest: bool = True) -> dict[str, float]:
    """Accuracy of scikit-learn's logistic regression and of a random forest on the counts of the words of `train`."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    count = CountVectorizer(token_pattern=r"\w+")
    (x, y), (z, want) = (zip(*some, strict=True) for some in (train, test))
    known, asked = count.fit_transform(x), count.transform(z)
    fits = {"bag_of_words": LogisticRegression(max_iter=1000)}
    if forest:                                                 # 500 trees on all rows take longer than the network
        fits["random_forest"] = RandomForestClassifier(500, random_state=seed)
    return {name: round(fit.fit(known, y).score(asked, want), 4) for name, fit in fits.items()}


def rows_of(folder: Path, split: str) -> list[tuple[str, str]]:
    """(text, label) of a corpus's split."""
    lines = (folder / f"{split}.jsonl").read_text().splitlines()
    return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def run_all(rows: list[tuple[str, str]], out: Path, seeds: int, texts: list[str], edits: dict[str, object],
            short: int) -> dict:
    """Pretrain once, fine-tune twice a seed, judge; the table as a mapping."""
    text, few = corpora(rows, out, seeds, texts)
    test = rows_of(text, "test")
    table: dict[str, list[float]] = {}
    started = time.process_time()
    run, _ = resolve("roberta", {"data.corpus": str(text), **edits})
    if short:
        rows_16 = {"model.context": run.train.context, "train.context": SHORT,
                   "train.batch": run.train.batch * run.train.context // SHORT}
        first = pretrain(resolve("roberta", {"data.corpus": str(text), **edits, **rows_16, "train.steps": short})[0],
                         out / "short")
        run = replace(run, base=str(first))
    base = pretrain(run, out / "base")
    result = json.loads((base / "result.json").read_text())
    codec = {"data.codec.vocab": run.data.codec.fields["vocab"]}
    for seed, folder in enumerate(few):
        tune: Run = replace(resolve("classify", codec)[0], seed=seed)
        tune = replace(tune, data=replace(tune.data, corpus=str(folder)),
                       train=replace(tune.train, compile=False, dtype=run.train.dtype))
        fine = pretrain(replace(tune, base=str(base)), out / f"fine-{seed}")
        bare = pretrain(from_nothing(tune, base), out / f"bare-{seed}")
        for key, value in {"pretrained": accuracy(fine, test), "scratch": accuracy(bare, test),
                           **on_word_counts(rows_of(folder, "train"), test, seed)}.items():
            table.setdefault(key, []).append(round(value, 4))
        print({key: values[-1] for key, values in table.items()}, flush=True)
    gain = [a - b for a, b in zip(table["pretrained"], table["scratch"], strict=True)]
    spread = T_95.get(len(gain) - 1, math.nan) * statistics.stdev(gain) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return {"rows": len(rows), "more_texts": len(texts), "test": len(test), "labels": LABELS, "seeds": seeds,
            **table, "mean": {key: round(statistics.mean(values), 4) for key, values in table.items()},
            "gain_points": round(100 * statistics.mean(gain), 2), "interval_points": round(100 * spread, 2),
            "masked_validation": result["validation"], "masked_steps": result["step"], "short_steps": short,
            "cpu_minutes": round((time.process_time() - started) / 60, 1)}


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
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="archives with more text of the kind")
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--seeds", type=int, default=5, choices=(1, 5))
    parser.add_argument("--short", type=int, default=4000, help="steps on short rows before")
    parser.add_argument("--edits", nargs="*", default=[], help="fields of the roberta recipe, train.steps=3000")
    given = parser.parse_args()
    from meristem.core.config import parse_edits
    known = sentences(given.sentences)
    texts = more(given.text, {text for text, _ in known[:TEST]})
    record("encoders", run_all(known, given.out, given.seeds, texts, parse_edits(given.edits), given.short))
