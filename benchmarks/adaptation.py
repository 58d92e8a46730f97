"""Every way of adapting one small decoder, side by side: accuracy, trained numbers, seconds, what the base forgets.

    python -m benchmarks.adaptation DATA --out FOLDER [--part methods|sizes|tasks|domain|templates] [--seeds 3]
    python -m benchmarks.adaptation DATA --out FOLDER --tiny          # does every part run? Three steps, nothing kept

DATA holds sentence-polarity, clinc150, banking77 and pubmedqa. A Llama of 1.3 M parameters reads their training texts
without any label; then for each method and seed 450 test questions of 15 of CLINC's intents (another 15 for each seed)
and 500 film reviews are answered in words after the same number of steps. `sizes` does so with bottleneck adapters of
growing size (Houlsby et al. 2019, section 3.4), twice as many steps. `tasks` adapts the one base to twelve tasks;
`domain` reads medical abstracts; `templates` asks one adapted model in eight ways. Interrupted, it goes on where it
was.
"""
import argparse
import csv
import gzip
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import meristem
from benchmarks.common import record
from benchmarks.encoders import sentences
from meristem.core.config import Part, edit
from meristem.core.files import read_json
from meristem.core.run import Data, Run, Train
from meristem.corpus.labelled import labelled
from meristem.evals.prompting import sweep
from meristem.evals.statistics import wilson
from meristem.evals.subject import Subject, prompt_ids
from meristem.train.run import pretrain

FREEZE = [{"match": r"^(?!model\.head)", "freeze": True}]
WIDE = {"train.lr": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "full": {**WIDE}, "head only": {"train.groups": FREEZE, "train.lr": 3e-3},
    "lora": {"adapt.name": "lora", "adapt.rank": 2, "adapt.alpha": 8.0},
    "rslora": {"adapt.name": "lora", "adapt.rank": 2, "adapt.alpha": 8.0, "adapt.rslora": True},
    "dora": {"adapt.name": "lora", "adapt.rank": 2, "adapt.alpha": 8.0, "adapt.dora": True},
    "lora+": {"adapt.name": "lora", "adapt.rank": 2, "adapt.alpha": 8.0, "train.lr": 2e-3,
              "train.groups": [{"match": r"\.b$", "lr": 16.0}]},
    "qlora": {"adapt.name": "qlora", "adapt.rank": 2, "adapt.alpha": 8.0},
    "ia3": {"adapt.name": "ia3", "train.lr": 3e-2},
    "bottleneck": {"adapt.name": "bottleneck", "adapt.size": 8},
    "gated_prefix": {"adapt.name": "gated_prefix", "adapt.length": 36, "train.lr": 2e-2},
    "prefix": {"adapt.name": "prefix", "adapt.length": 36, "train.lr": 2e-2},
    "prompt": {"adapt.name": "prompt", "adapt.length": 36, "train.lr": 3e-2}}
TEMPLATES = ("{}\nlabel: ", "review: {}\nlabel: ", "{}\nsentiment: ", "{} label: ", "{}\nIs it good? ", "label of {}: ",
             "{}\nlabel:", "text: {}\nclass: ")
BOTTLENECKS = (2, 8, 32, 128)
Rows = list[tuple[str, str]]


def intents(data: Path) -> dict[str, dict[str, list[str]]]:
    """CLINC150: split -> intent -> texts."""
    with gzip.open(data / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as f:
        tree = json.load(f)
    found: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "val", "test"):
        for text, intent in tree[split]:
            found.setdefault(split, {}).setdefault(intent.replace("_", " "), []).append(text)
    return found


def banking(path: Path) -> Rows:
    """(text, intent) of a file of banking77."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as f:
        return [(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(f)]


def write(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Rows as train.jsonl, validation.jsonl and test.jsonl."""
    if all((folder / f"{split}.jsonl").is_file() for split in splits):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def questions(rows: Rows, template: str = TEMPLATES[0]) -> list[dict[str, Any]]:
    """Rows of `data.examples=answers`: the answer is the label in words."""
    return [{"input": (q := template.format(text)), "target": label, "shots": [], "text": f"{q}{label}\n"}
            for text, label in rows]


def film(data: Path) -> dict[str, Rows]:
    """Film reviews: 2,000 to train on, 300 and 500 to judge."""
    words = {"pos": "positive", "neg": "negative"}
    rows = [(text, words[label]) for text, label in sentences(data / "sentence-polarity" / "sentence_polarity.zip")]
    return {"test": rows[:500], "validation": rows[500:800], "train": rows[2000:4000]}


def group(data: Path, number: int) -> dict[str, Rows]:
    """Fifteen of CLINC's intents in alphabetical order: 60, 20 and 30 texts each."""
    found = intents(data)
    names = sorted(found["train"])[15 * number: 15 * number + 15]
    return {ours: [(text, name) for name in names for text in found[theirs][name][:count]]
            for ours, theirs, count in (("train", "train", 60), ("validation", "val", 20), ("test", "test", 30))}


def cards(data: Path) -> dict[str, Rows]:
    """Banking77's first fifteen intents."""
    train, test = (banking(data / "banking77" / f) for f in ("train.csv.gz", "test.csv"))
    names = sorted({label for _, label in train})[:15]
    train, test = ([row for row in rows if row[1] in names] for rows in (train, test))
    return {"train": train[::2], "validation": train[1::6], "test": test}


def prepared(folder: Path, splits: Mapping[str, Rows]) -> Path:
    """A task's corpus."""
    return write(folder, {split: questions(rows) for split, rows in splits.items()})


def base_of(data: Path, out: Path, steps: int) -> Path:
    """The base: all training texts without a label, those of the test splits never."""
    if (out / "base" / "result.json").is_file():
        return out / "base"
    text = [t for t, _ in sentences(data / "sentence-polarity" / "sentence_polarity.zip")[2000:]]
    text += [t for texts in intents(data)["train"].values() for t in texts]
    text += [t for t, _ in banking(data / "banking77" / "train.csv.gz")]
    order = np.random.default_rng(0).permutation(len(text))
    rows = [{"text": "\n".join(text[i] for i in order[at: at + 8]), "label": "text"} for at in range(0, len(text), 8)]
    folder = write(out / "texts", {"train": rows[100:], "validation": rows[:50], "test": rows[50:100]})
    run = Run("base", Part("llama", {"dim": 128, "layers": 4, "heads": 4, "groups": 2, "hidden": 352, "context": 128}),
              data=Data(str(folder), Part("bpe", {"vocab": 2048})),
              train=Train(steps=steps, batch=16, context=64, lr=3e-3, warmup=30, compile=False))
    return pretrain(run, out / "base")


def adapt(base: Path, corpus: Path, out: Path, edits: Mapping[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """One run: what it trained, its seconds, its losses, what the base forgot, and its accuracy on the test split."""
    run = Run("adapt", data=Data(str(corpus), examples="answers"), base=str(base), seed=seed,
              train=Train(steps=steps, batch=16, context=64, lr=1e-2, warmup=5, weight_decay=0.0, compile=False,
                          guard=False))
    start = time.process_time()
    pretrain(edit(run, edits), out)
    result, manifest = read_json(out / "result.json"), read_json(out / "manifest.json")
    right = answered(out, corpus)
    return {"trainable": manifest["trainable"], "seconds": result["train_seconds"], "validation": result["validation"],
            "forgetting": result["forgetting"], "right": int(sum(right)), "n": len(right),
            "process_seconds": time.process_time() - start}


def answered(model: Path, corpus: Path, shots: int = 0) -> list[bool]:
    """Which test questions are answered with exactly the right words, greedily; `shots`: after worked examples."""
    subject = Subject.open(model)
    found = labelled(corpus)
    rows = [(d.fields["input"], d.fields["target"]) for d in found.documents("test")]
    before = "".join(d.fields["text"] for d in list(found.documents("train"))[:shots])
    length = max(len(subject.codec.encode(label)) for _, label in rows) + 2
    made = subject.complete([prompt_ids(subject.codec, before + text, True) for text, _ in rows], length, 0.0, 0)
    return [subject.codec.decode(ids[ids != subject.codec.end]).split("\n")[0].strip() == label
            for ids, (_, label) in zip(made, rows, strict=True)]


def share(right: int, n: int) -> str:
    """'71.3 % (68.8 to 73.6)'."""
    interval = wilson(right, n)
    return f"{right / n:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def methods(data: Path, base: Path, out: Path, seeds: int, steps: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """The table of methods on intents and film reviews."""
    table: dict[str, Any] = {}
    for seed in range(seeds):
        tasks = {"intents": prepared(out / f"intents-{seed}", group(data, seed)),
                 "film": prepared(out / "film", film(data))}
        for task, corpus in tasks.items():
            for name, edits in METHODS.items():
                if only and name not in only:
                    continue
                found = adapt(base, corpus, out / "runs" / f"{task}-{name}-{seed}", edits, seed, steps)
                table.setdefault(name, {}).setdefault(task, []).append(found)
                print(json.dumps({"method": name, "task": task, "seed": seed, **found}), flush=True)
    rows = {name: {task: {"accuracy": share(sum(f["right"] for f in each), sum(f["n"] for f in each)),
                          "seeds": [f["right"] / f["n"] for f in each], "trainable": each[0]["trainable"],
                          "validation": statistics.mean(f["validation"] for f in each),
                          "rise": statistics.mean(f["forgetting"]["rise"] for f in each),
                          "seconds": statistics.mean(f["seconds"] for f in each)} for task, each in tasks.items()}
            for name, tasks in table.items()}
    for name, tasks in rows.items():
        print(name, json.dumps(tasks))
    return rows


def sizes(data: Path, base: Path, out: Path, seeds: int, steps: int) -> dict[str, Any]:
    """Accuracy by the size of a bottleneck adapter."""
    rows: dict[str, Any] = {}
    for size in BOTTLENECKS:
        for task in ("intents", "film"):
            each = []
            for seed in range(seeds):
                corpus = prepared(out / (f"intents-{seed}" if task == "intents" else "film"),
                                  group(data, seed) if task == "intents" else film(data))
                each.append(adapt(base, corpus, out / "runs" / f"{task}-size-{size}-{seed}",
                                  {**METHODS["bottleneck"], "adapt.size": size}, seed, 2 * steps))
            rows.setdefault(str(size), {})[task] = {
                "accuracy": share(sum(f["right"] for f in each), sum(f["n"] for f in each)),
                "seeds": [f["right"] / f["n"] for f in each], "trainable": each[0]["trainable"],
                "validation": statistics.mean(f["validation"] for f in each),
                "rise": statistics.mean(f["forgetting"]["rise"] for f in each)}
        print(size, json.dumps(rows[str(size)]), flush=True)
    return rows


def many(data: Path, base: Path, out: Path, steps: int) -> dict[str, Any]:
    """One frozen base and a LoRA adapter for each of twelve tasks, beside the base without and with examples."""
    tasks = {f"intents {i}": group(data, i) for i in range(10)} | {"film": film(data), "banking": cards(data)}
    rows = {}
    for name, splits in tasks.items():
        corpus = prepared(out / name.replace(" ", "-"), splits)
        lora = adapt(base, corpus, out / "runs" / f"many-{name}", METHODS["lora"], 0, steps)
        full = adapt(base, corpus, out / "runs" / f"many-full-{name}", METHODS["full"], 0, steps)
        zero, few = answered(base, corpus), answered(base, corpus, shots=3)
        rows[name] = {"zero-shot": share(sum(zero), len(zero)), "3-shot": share(sum(few), len(few)),
                      "lora": share(lora["right"], lora["n"]), "full": share(full["right"], full["n"]),
                      "rise of lora": lora["forgetting"]["rise"], "rise of full": full["forgetting"]["rise"]}
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def domain(data: Path, base: Path, out: Path, steps: int) -> dict[str, Any]:
    """Medical abstracts, packed text: the domain's loss before and after, and the base's own."""
    with gzip.open(data / "pubmedqa" / "ori_pqal.json.gz", "rt", encoding="utf-8") as f:
        texts = ["\n".join(entry["CONTEXTS"]) for entry in json.load(f).values()]
    rows = [{"text": t, "label": "medical"} for t in texts]
    corpus = write(out / "medical", {"test": rows[:50], "validation": rows[50:150], "train": rows[150:]})
    found = {}
    for name in ("full", "lora"):
        run = Run("domain", data=Data(str(corpus)), base=str(base),
                  train=Train(steps=steps, batch=16, context=64, lr=1e-2, warmup=5, weight_decay=0.0, compile=False,
                              validate_every=max(1, steps // 4)))
        folder = pretrain(edit(run, METHODS[name]), out / "runs" / f"domain-{name}")
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        result = read_json(folder / "result.json")
        found[name] = {"first": log[0]["loss"], "validation": [e["validation"] for e in log if "validation" in e],
                       "base": result["forgetting"]}
        print(name, json.dumps(found[name]), flush=True)
    return found


def templates(data: Path, base: Path, out: Path, steps: int) -> dict[str, Any]:
    """One adapted model, eight wordings of the question: the first is the one it was trained on."""
    corpus = prepared(out / "film", film(data))
    folder = out / "runs" / "film-full-0"                        # LoRA of rank 2 gives one answer to everything
    adapt(base, corpus, folder, METHODS["full"], 0, steps)
    subject = Subject.open(folder)
    length = len(subject.codec.encode("positive")) + 2

    def ask(prompts: list[str]) -> list[str]:
        made = subject.complete([prompt_ids(subject.codec, text, True) for text in prompts], length, 0.0, 0)
        return [subject.codec.decode(ids[ids != subject.codec.end]) for ids in made]
    found = sweep(TEMPLATES, film(data)["test"], ask)
    print(found.describe())
    return {**{t: share(sum(hits), len(hits)) for t, hits in found.right.items()}, "summary": found.describe()}


def main() -> None:
    """Parse the command line and run the asked part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("methods", "sizes", "tasks", "domain", "templates"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--only", default="", help="Of the methods these alone, comma-separated; nothing is recorded.")
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    steps = 3 if a.tiny else a.steps
    base = base_of(a.data, a.out, 3 if a.tiny else a.base_steps)
    only = [name for name in a.only.split(",") if name]
    parts = {"methods": lambda: methods(a.data, base, a.out, 1 if a.tiny else a.seeds, steps, only),
             "sizes": lambda: sizes(a.data, base, a.out, 1 if a.tiny else a.seeds, steps),
             "tasks": lambda: many(a.data, base, a.out, steps), "domain": lambda: domain(a.data, base, a.out, steps),
             "templates": lambda: templates(a.data, base, a.out, steps)}
    for name in [a.part] if a.part else parts:
        rows = parts[name]()
        if not a.tiny and not a.only:
            record(f"adaptation_{name}", {"meristem": meristem.__version__, "steps": steps, "rows": rows})


if __name__ == "__main__":
    main()
