"""Evidence about certificates and risks: planted items, canaries, DP-SGD, shared failures, a ladder of sizes.

    python -m benchmarks.certificates index DATA            # K in {0, 1, 10, 100}: exact counts, paraphrases, ms
    python -m benchmarks.certificates runs DATA --out OUT   # three small runs: all, without near-duplicates, private
    python -m benchmarks.certificates ladder --out OUT      # five sizes on arithmetic: accuracy and log-likelihood
    python -m benchmarks.certificates together DATA --out OUT          # adapters on one base beside independent models
    python -m benchmarks.certificates features              # how many known features a sparse autoencoder finds
    python -m benchmarks.certificates context               # memory of 1k, 4k and 16k tokens, each in its own process

DATA is a folder with gsm8k/ and sentence-polarity/. `--tiny` shrinks every part to a check that it works.
"""
import argparse
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import worker
from meristem.core.config import Part
from meristem.core.files import write_json
from meristem.core.run import Data, Run, Train
from meristem.corpus import toy
from meristem.corpus.canaries import found as standing
from meristem.corpus.canaries import planted
from meristem.corpus.curate import curate
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.evals import files
from meristem.evals.contamination import Index
from meristem.evals.homogeneity import of_runs
from meristem.evals.perturb import typos
from meristem.evals.risk import battery
from meristem.evals.run import evaluate, task_of
from meristem.evals.subject import Subject
from meristem.train.run import pretrain

SHAPE = {"dim": 128, "layers": 4, "heads": 4, "hidden": 352}
ROW = {"label": "text"}                 # rows are labelled texts; the label says nothing
SIZES = (16, 32, 64, 96, 160)           # widths of the ladder
NAMES = re.compile(r"\b[A-Z][a-z]{2,}\b")


def rows_of(folder: Path, texts: list[str], held_out: list[str] | None = None) -> Corpus:
    """A labelled corpus of texts, of which only exact copies are dropped; with `held_out` all of them train."""
    folder.mkdir(parents=True, exist_ok=True)
    if held_out:
        half = len(held_out) // 2
        for split, some in (("train", texts), ("validation", held_out[:half]), ("test", held_out[half:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(ROW | {"text": t}) + "\n" for t in some))
        return labelled(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(ROW | {"text": text}) + "\n" for text in texts))
    return labelled(folder / "rows.jsonl")


def problems(data: Path, split: str) -> list[str]:
    """gsm8k's questions with their worked answers."""
    return [f"{row['question']}\n{row['answer']}" for row in
            files.rows(data, f"{split}.jsonl", folders=("gsm8k",), url="https://github.com/openai/grade-school-math")]


def paraphrases(text: str, seed: int) -> dict[str, str]:
    """A question in other forms, from light to heavy."""
    sentences = re.split(r"(?<=[.?!]) ", text)
    rng = random.Random(seed)
    every = re.sub(r"\b(\w+)\b", lambda m: m[1] if rng.random() > 1 / 8 else "then", text)
    return {"case and spacing": re.sub(r" ", "  ", text).upper(), "one typing error in six words": typos(text, seed),
            "names exchanged": NAMES.sub("Robin", text), "sentences in another order": " ".join(reversed(sentences)),
            "one word in eight replaced": every}


def index(data: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """Exactly K of K, the recall of paraphrases, and how long a check takes."""
    train, test = problems(data, "train"), problems(data, "test")
    asked = [text.partition("\n")[0] for text in test]
    found: dict[str, Any] = {"items": len(asked), "training_documents": len(train)}
    for k in (0, 1, 10) if tiny else (0, 1, 10, 100):
        chosen = random.Random(k).sample(range(len(test)), k)
        corpus = rows_of(out / f"planted-{k}", [*train[: 200 if tiny else -200], *(test[i] for i in chosen)],
                         train[-200:])
        start = time.perf_counter()
        made = Index.build(corpus)
        built = time.perf_counter() - start
        start = time.perf_counter()
        overlaps = made.check(asked)
        found[f"planted {k}"] = {"exact": sum(o.exact for o in overlaps), "right": sum(
            overlaps[i].exact for i in chosen), "gram13": sum(o.seen > 0 for o in overlaps),
            "build_seconds": round(built, 2), "check_milliseconds": round(1000 * (time.perf_counter() - start), 1)}
    corpus = rows_of(out / "originals", test)
    kept = {d.text.partition("\n")[0] for d in corpus.documents("train")}
    made, items = Index.build(corpus), [text for text in asked if text in kept]
    for kind in paraphrases(items[0], 0):
        overlaps = made.check([paraphrases(text, n)[kind] for n, text in enumerate(items)])
        some, whole = ([float(not o.clean) for o in overlaps], [float(o.exact) for o in overlaps])
        found[f"recall, {kind}"] = {"n": len(items), "any run of 13": round(sum(some) / len(some), 3),
                                    "exact": round(sum(whole) / len(whole), 3)}
    return found


def runs(data: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """One corpus of problems with canaries and 100 planted test items: as it is, without near-duplicates, private."""
    train, test = problems(data, "train")[: 60 if tiny else 500], problems(data, "test")
    leaked, kept = test[: 4 if tiny else 100], test[100: 104 if tiny else 200]
    repeats, each = ((1, 4), 2) if tiny else ((1, 4, 16, 64), 4)
    lines = [text.splitlines()[-1] for text in planted(["x"] * sum(n * each for n in repeats), repeats, each)]
    grouped: dict[str, int] = {}
    copies = []
    for line in lines:
        grouped[line] = grouped.get(line, 0) + 1
        copies.append(f"{train[hash_of(line) % len(train)]}\n{line}\nCopy {grouped[line]}.")
    texts = [*train, *leaked, *copies]
    raw = {"train": texts, "validation": test[200:240], "test": test[240:340]}
    for name in ("all", "deduplicated"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for split, some in raw.items():
            (out / name / f"{split}.jsonl").write_text("".join(json.dumps(ROW | {"text": t}) + "\n" for t in some))
    everything = labelled(out / "all")
    assert sum(standing(everything, "train").values()) == len(lines), "a canary was lost on the way"
    single = without_copies(texts, out / "work")
    (out / "deduplicated" / "train.jsonl").write_text("".join(json.dumps(ROW | {"text": t}) + "\n" for t in single))
    labelled(out / "deduplicated")
    questions = out / "questions"
    questions.mkdir(exist_ok=True)
    source = {f"{row['question']}\n{row['answer']}": row for row in files.rows(data, "test.jsonl", folders=("gsm8k",))}
    (questions / "test.jsonl").write_text("".join(json.dumps(source[t]) + "\n" for t in [*leaked, *kept]))
    steps = 6 if tiny else 500
    plain = Train(steps=steps, batch=16, context=256, lr=3e-3, optimizer="adamw", compile=False, guard=False)
    private = Train(steps=steps, batch=16, context=256, lr=3e-3, optimizer="adamw", compile=False, guard=False,
                    private_noise=0.6, private_clip=1.0)
    found: dict[str, Any] = {"documents": len(texts), "without near-duplicates": len(single)}
    for name, corpus, how in (("all", "all", plain), ("deduplicated", "deduplicated", plain),
                              ("private", "all", private)):
        start = time.process_time()
        run = Run(name, Part("llama", SHAPE), data=Data(str(out / corpus), Part("bpe", {"vocab": 1024})), train=how)
        folder = pretrain(run, out / "runs" / name)
        subject = Subject.open(folder, name)
        made = battery(subject, everything, limit=20 if tiny else 100)
        asked = [*made.scores, *evaluate(subject, everything, ["canaries"], limit=20 if tiny else 100)]
        found[name] = {"minutes": round((time.process_time() - start) / 60, 1),
                       **{s.name: [s.value, s.interval.low, s.interval.high, s.n] for s in asked}}
        if name == "all":
            for s in evaluate(subject, everything, ["gsm8k"], data=questions, limit=4 if tiny else 200):
                found[f"certificate of {s.name}"] = {
                    "value": s.value, "interval": [s.interval.low, s.interval.high], "n": s.n, "twin": s.twin and [
                        s.twin.value, s.twin.p], "phrasing": s.phrasing and s.phrasing.values,
                    "contamination": s.contamination and s.contamination.__dict__ | {"clean_interval": None,
                                                                                     "inflation_interval": [
                        s.contamination.inflation_interval.low, s.contamination.inflation_interval.high]
                        if s.contamination.inflation_interval else None}}
    return found


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(c) * 31**n for n, c in enumerate(text[:24])) % 1_000_003


def without_copies(texts: list[str], work: Path) -> list[str]:
    """The texts that curation keeps: near-duplicates leave one."""
    (work / "in").mkdir(parents=True, exist_ok=True)
    for n, text in enumerate(texts):
        (work / "in" / f"{n}.txt").write_text(text)
    made = curate([work / "in"], work / "corpus", stages=("repair",))
    return [d.text for split in ("train", "validation", "test") for d in made.documents(split)]


def ladder(out: Path, tiny: bool) -> dict[str, Any]:
    """Five sizes on sums of two digits: exact answers may look sudden, their log-likelihood does not."""
    corpus = toy.make("arithmetic", out / "arithmetic", {"documents": 200 if tiny else 3000, "shots": 24})
    found = {}
    for width in SIZES[: 2 if tiny else None]:
        shape = {"dim": width, "layers": 2, "heads": max(1, width // 16), "hidden": 3 * width}
        start = time.process_time()
        run = Run(f"ladder-{width}", Part("llama", shape), data=Data(str(out / "arithmetic"), Part("char", {})),
                  train=Train(steps=5 if tiny else 600, batch=32, context=160, lr=3e-3, optimizer="adamw",
                              compile=False, guard=False))
        subject = Subject.open(pretrain(run, out / "runs" / str(width)), str(width))
        scores = evaluate(subject, corpus, ["exact_answer", "answer_nats"], limit=20 if tiny else 400, quick=True)
        found[str(width)] = {"parameters": sum(p.numel() for p in subject.module.parameters()),
                             **{s.name: [s.value, s.interval.low, s.interval.high, s.n] for s in scores},
                             "minutes": round((time.process_time() - start) / 60, 1)}
    return found


def together(data: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """Four adapters on one base, and four independent models of the same shape on the same labels."""
    task: Any = task_of("sentence_polarity", data)
    items = task.read()
    order = np.random.default_rng(0).permutation(len(items))
    text = [items[i].stem for i in order[3000:3200 if tiny else 9000]]
    rows_of(out / "base", text)
    corpus = str(out / "base" / "rows.jsonl")
    codec = Part("bpe", {"vocab": 1024})
    how = Train(steps=4 if tiny else 500, batch=32, context=64, lr=3e-3, optimizer="adamw", compile=False, guard=False)
    base = pretrain(Run("base", Part("llama", SHAPE), data=Data(corpus, codec), train=how), out / "runs" / "base")
    short = Train(steps=4 if tiny else 200, batch=16, context=64, lr=1e-3, optimizer="adamw", compile=False,
                  guard=False)
    groups: dict[str, list[Path]] = {"adapters": [], "independent": []}
    for n in range(2 if tiny else 4):
        some = [items[i] for i in order[1000 + 400 * n: 1400 + 400 * n]]
        rows_of(out / f"labels-{n}", [f"{item.prompt} {item.answer}" for item in some])
        labels = str(out / f"labels-{n}" / "rows.jsonl")
        groups["adapters"].append(pretrain(
            Run(f"adapter-{n}", data=Data(labels, codec), train=short, base=str(base / "model"), seed=n,
                adapt=Part("lora", {"rank": 8})), out / "runs" / f"adapter-{n}"))
        rows_of(out / f"both-{n}", [*text, *(f"{item.prompt} {item.answer}" for item in some * 3)])
        groups["independent"].append(pretrain(
            Run(f"independent-{n}", Part("llama", SHAPE), data=Data(str(out / f"both-{n}" / "rows.jsonl"), codec),
                train=how, seed=100 + n), out / "runs" / f"independent-{n}"))
    found: dict[str, Any] = {}
    for name, folders in groups.items():
        for folder in folders:
            evaluate(Subject.open(folder), labelled(out / "base" / "rows.jsonl"), ["sentence_polarity"], data=data,
                     limit=20 if tiny else 300, quick=True)
        made = of_runs(folders, "sentence_polarity", "sentence_polarity_acc")
        found[name] = {"models": made.models, "n": made.n, "errors": made.errors, "joint failures over expected": [
            made.ratio, made.ratio_interval.low, made.ratio_interval.high], "correlation of errors": [
            made.correlation, made.correlation_interval.low, made.correlation_interval.high]}
    return found


def features(tiny: bool) -> dict[str, Any]:
    """H16: the toy with known features, over three seeds."""
    from meristem.evals.dictionary import Toy, learn, recovery
    made = [recovery(learn(Toy(seed=seed), seed, 40 if tiny else 2000), Toy(seed=seed))
            for seed in range(1 if tiny else 3)]
    return {f"seed {n}": [m.value, m.interval.low, m.interval.high, m.n] for n, m in enumerate(made)}


def context(tiny: bool) -> dict[str, Any]:
    """E5: bytes of the cache and of the whole process while texts of three lengths are read and 8 tokens written."""
    lengths = (256, 512) if tiny else (1024, 4096, 16_384)
    return {str(n): worker("benchmarks.certificates", str(n)) for n in lengths}


def read_long(length: int) -> dict[str, float]:
    """One length, in this process."""
    import resource

    import torch

    from meristem.generate.base import prefill
    from meristem.models.llama import Config, Model
    torch.manual_seed(0)
    model = Model(Config(vocab=512, context=length + 8, **SHAPE)).eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        cache, _ = prefill(model, [np.random.default_rng(0).integers(1, 512, length)], 8)
    held = sum(entry.k.nbytes + entry.v.nbytes for entry in cache)
    return {"tokens": length, "cache_megabytes": held / 1e6,
            "grown_megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3}


def main() -> None:
    """One part; the result is printed and kept in OUT."""
    parser = argparse.ArgumentParser()
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(read_long(int(sys.argv[2]))))
        return
    parser.add_argument("part", choices=("index", "runs", "ladder", "together", "features", "context"))
    parser.add_argument("data", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--out", type=Path, default=Path("runs/certificates"))
    parser.add_argument("--tiny", action="store_true")
    words = parser.parse_args()
    start = time.process_time()
    out = words.out / words.part
    out.mkdir(parents=True, exist_ok=True)
    found = {"index": lambda: index(words.data, out, words.tiny), "runs": lambda: runs(words.data, out, words.tiny),
             "ladder": lambda: ladder(out, words.tiny), "together": lambda: together(words.data, out, words.tiny),
             "features": lambda: features(words.tiny), "context": lambda: context(words.tiny)}[words.part]()
    found["processor_minutes"] = round((time.process_time() - start) / 60, 2)
    write_json(words.out / f"{words.part}.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
