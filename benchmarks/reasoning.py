"""Reinforcement learning with a verifiable reward on arithmetic (row A31): a network that thinks before it answers.

    python -m benchmarks.reasoning --out runs/reasoning [--seed 0] [--method grpo|rloo|ppo] [--tiny]

A question is a sum of numbers ("3+8+9="); a thought adds them from left to right ("3+8=11,11+9=20") and ends with
`#` and the answer. Instruction tuning shows some worked thoughts, whole or cut short before the `#`, so the network
knows the form and answers whatever it has thought so far. Then the policy answers questions of its own, and only the
number behind the last `#` is rewarded. Both are asked test questions that neither has seen (a question's split is a
hash of it), greedily and at temperature 1, with thoughts cut off after 0, 6, 12, ... characters: the answer is then
forced with `#`.
The table is benchmarks/results/reasoning.json.
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core.config import Part, edit
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.evals.statistics import mcnemar, wilson
from meristem.generate.autoregressive import generate
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain

SHAPE = {"dim": 96, "layers": 3, "heads": 4, "hidden": 256, "qk_norm": True, "tied": True}
TERMS, DIGITS = (2, 5), 1
BUDGETS = (0, 6, 12, 18, 24, 32)
MARK = "#"


def sums(split: str, count: int, seed: int) -> list[list[int]]:
    """So many different sums of a split: their terms."""
    rng, found = np.random.default_rng(seed_of(seed, "sums", split)), dict[str, list[int]]()
    while len(found) < count:
        terms = rng.integers(1, 10**DIGITS, rng.integers(TERMS[0], TERMS[1] + 1)).tolist()
        place = seed_of("sum", *terms) % 10
        if {"test": 0, "validation": 1}.get(split, 2) == min(place, 2):
            found.setdefault(asked(terms), terms)
    return list(found.values())


def asked(terms: list[int]) -> str:
    """The question."""
    return "+".join(map(str, terms)) + "="


def thought(terms: list[int]) -> str:
    """Adding up from left to right."""
    steps, total = [], terms[0]
    for term in terms[1:]:
        steps.append(f"{total}+{term}={total + term}")
        total += term
    return ",".join(steps)


def write(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """Worked thoughts, and questions with answers; a folder of splits each."""
    worked, questions = folder / "worked", folder / "questions"
    for split in ("train", "validation", "test"):
        rng, share = np.random.default_rng(seed_of(seed, "cut", split)), 1 if split == "train" else 10
        rows: list[dict[str, Any]] = []
        for terms in sums(split, count // share, seed):
            text = thought(terms)
            cut = len(text) if rng.random() < 0.7 else int(rng.integers(0, len(text)))
            rows.append({"prompt": asked(terms), "completion": f"{text[:cut]}{MARK}{sum(terms)}"})
        for place, some in ((worked, rows), (questions, [{"prompt": asked(terms), "answer": str(sum(terms))}
                                                         for terms in sums(split, count // share, seed)])):
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return worked, questions


def examined(run: Path, questions: list[list[int]], budget: int, temperature: float = 0.0) -> list[float]:
    """Whether each question is answered rightly after a thought of at most `budget` characters, drawn at a
    temperature."""
    loaded = hf.load(run)
    codec = loaded.codec
    assert codec is not None
    prompts = [np.concatenate([[codec.end], codec.encode(asked(terms))]) for terms in questions]
    mark = int(codec.encode(MARK)[0])
    thoughts = [[] for _ in prompts] if not budget else [
        one.tokens for one in generate(loaded.module, prompts, length=budget, stop={codec.end, mark},
                                       temperature=temperature)]
    forced = [np.concatenate([p, t, [mark]]).astype(np.int64) for p, t in zip(prompts, thoughts, strict=True)]
    said = generate(loaded.module, forced, length=4, stop={codec.end}, temperature=temperature, seed=1)
    return [float(codec.decode(one.tokens) == str(sum(terms))) for one, terms in zip(said, questions, strict=True)]


def learn(run: Run, folder: Path) -> dict[str, float]:
    """Train one run (or find it finished); minutes of the processor and the log's ends."""
    start = time.process_time()
    pretrain(run, folder)
    log = read_log(folder / "log.jsonl")
    few = max(1, len(log) // 10)
    ends = {f"{key}_{name}": float(np.mean([line[key] for line in part]))
            for key in ("loss", "reward", "drift", "clipped", "tokens_each", "flat") if key in log[0]
            for name, part in (("first", log[:few]), ("last", log[-few:]))}
    return {"cpu_minutes": (time.process_time() - start) / 60, "first_ratio": log[0].get("ratio", 1.0), **ends}


def main() -> None:
    """Make the questions, train both, ask both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=("grpo", "rloo", "ppo"), default="grpo")
    parser.add_argument("--sft-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=3e-4, help="of the policy")
    parser.add_argument("--prompts", type=int, default=0, help="of a step of the policy; 0: 16, or 128 for ppo")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args()
    out, tiny = given.out, given.tiny
    worked, questions = write(out, 400 if tiny else 4_000, 0)
    common = {"seed": given.seed, "train.context": 56, "data.codec.name": "char", "train.compile": False}
    base = edit(recipes()["sft"](), {
        **common, "data.corpus": str(worked), "train.steps": 4 if tiny else given.sft_steps, "train.batch": 32,
        "train.optimizer": "muon", "train.lr": 1e-2, "train.validate_every": 100, "train.dtype": "float32"})
    base = replace(base, model=Part("llama", SHAPE))
    first = learn(base, out / f"sft-{given.seed}")
    recipe = "ppo" if given.method == "ppo" else "grpo"
    policy = edit(recipes()[recipe](), {
        **common, "data.corpus": str(questions), "base": str(out / f"sft-{given.seed}"), "train.steps": 2 if tiny else
        given.steps, "train.batch": given.prompts or (128 if recipe == "ppo" else 16), "train.lr": given.lr,
        "train.validate_every": 50,
        "objective.length": 36, "objective.reward": "last_number"})
    if given.method == "rloo":
        policy = edit(policy, {"objective.loss": "rloo"})
    after = learn(policy, out / f"{given.method}-{given.seed}")
    test = sums("test", 40 if tiny else 500, 1)
    table: dict[str, Any] = {}
    right: dict[str, list[float]] = {}
    gains: dict[str, Any] = {}
    for how, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        for name in ("sft", given.method):
            for budget in BUDGETS:
                right[name] = examined(out / f"{name}-{given.seed}", test, budget, temperature)
                hits = int(sum(right[name]))
                interval = wilson(hits, len(test))
                table[f"{how} {name} {budget}"] = {"accuracy": hits / len(test), "low": interval.low,
                                                   "high": interval.high}
        gain = mcnemar(right[given.method], right["sft"])
        gains[how] = {"points": 100 * gain.value, "low": 100 * gain.interval.low, "high": 100 * gain.interval.high,
                      "p": gain.p}
    record("reasoning-tiny" if tiny else f"reasoning-{given.method}-{given.seed}", {
        "questions": len(test), "sft": first, given.method: after, "accuracy by thinking budget": table,
        "points gained": gains})


if __name__ == "__main__":
    main()
