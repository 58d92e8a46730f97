"""A base that can copy, for benchmarks that tune small models on instructions and tools (rows A4, A32, B33).

    python -m benchmarks.copying DATA --out FOLDER [--seed 0] [--tiny]

DATA holds p3-open. A Llama of 0.7 M parameters, one token a byte, learns to copy random words and figures (recipe
`copies`: rows of 96 characters, loss on the copies alone), then reads a mixture of p3-open's questions with answers and
of longer copies as plain text. It has seen no chat, no made instruction, no tool. Recorded is how often it copies
exactly, by the length of the text, after each of the two stages.
`benchmarks.assistant` and `benchmarks.agents` tune this base. Interrupted, the same command goes on.
"""
import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adaptation import write
from benchmarks.common import record
from meristem.core.config import edit
from meristem.core.files import read_json
from meristem.corpus import toy
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.recipes import recipes
from meristem.train.run import pretrain

LENGTHS = (96, 192, 384)                # characters of a text in which something is copied
SHARES = {"text": 0.4, "copies": 0.6}   # of the targets of the second stage
STEPS = (800, 500)                      # of the two stages


def questions(data: Path) -> list[str]:
    """p3-open's questions with their answers."""
    with gzip.open(data / "p3-open" / "p3_open.jsonl.gz", "rt", encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    return [f"{row['prompt'].strip()}\n{row['completion'].strip()}" for row in rows]


def base_of(texts: Sequence[str], out: Path, seed: int = 0, tiny: bool = False) -> Path:
    """The base's run folder, out/base-SEED: the two stages, or what is left of them."""
    few = {"documents": 60 if tiny else 40_000}
    common = {"seed": seed, "train.compile": False, "train.validate_every": 0, **({"train.batch": 2} if tiny else {})}
    first = pretrain(edit(recipes()["copies"](), {
        **common, "data.corpus": str(toy.make("copies", out / "copies", few).folder),
        "train.steps": 2 if tiny else STEPS[0]}), out / f"copies-{seed}")
    return pretrain(edit(reader(texts, out, tiny, SHARES), {**common, "base": str(first)}), out / f"base-{seed}")


def reader(texts: Sequence[str], out: Path, tiny: bool, shares: dict[str, float]) -> Any:
    """The second stage: plain text and copies, every token predicted, windows of 512."""
    rows = {split: [{"text": text, "label": "text"} for text in some] for split, some in (
        ("train", texts[200::40 if tiny else 2]), ("validation", texts[:100]), ("test", texts[100:200]))}
    for split in rows:
        for length in LENGTHS:
            kind = toy.kind_of("copies", {"documents": 20 if tiny else 4_000, "length": length, "seed": 1})
            rows[split] += [{"text": row["text"], "label": "copies"} for row in toy.rows(kind, split)]
    return edit(recipes()["copies"](), {
        "name": "base", "data.corpus": str(write(out / "mixed", rows)), "data.examples": "",
        "data.packing": "separate", "data.mixture.name": "fixed", "data.mixture.by": "label",
        "data.mixture.weights": shares, "train.steps": 2 if tiny else STEPS[1], "train.batch": 8,
        "train.context": 64 if tiny else 512})


def copied(model: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """The share of held-out texts copied exactly, by length."""
    table = {}
    for length in LENGTHS:
        corpus = toy.make("copies", out / f"asked-{length}", {"documents": 60 if tiny else 4_000, "length": length,
                                                              "seed": 2})
        [score] = evaluate(Subject.open(model), corpus, ["exact_answer"], limit=6 if tiny else 400)
        table[str(length)] = {"share": score.value, "low": score.interval.low, "high": score.interval.high,
                              "n": score.n}
        print(model.name, length, table[str(length)], flush=True)
    return table


def main() -> None:
    """Train the base, ask it after each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    given = parser.parse_args()
    texts = questions(given.data)
    base = base_of(texts, given.out, given.seed, given.tiny)
    found: dict[str, Any] = {}
    for name, model in (("copies alone", given.out / f"copies-{given.seed}"), ("with text", base)):
        found[name] = {"seconds": read_json(model / "result.json")["train_seconds"],
                       "copied": copied(model, given.out, given.tiny)}
    record(f"copying-{given.seed}{'-tiny' * given.tiny}", found)


if __name__ == "__main__":
    main()
