"""DPO and GRPO beside trl: pairs and answers a second, of the same network, rows and settings.

    python -m benchmarks.alignment [--tiny]

A Llama of 7 M parameters (random weights, the same file for both), pairs of about 100 tokens an answer after prompts of
as many, 8 pairs a step; 8 prompts a step with 8 answers of 48 tokens each. Each side in fresh processes, in fp32 and in
bf16 (ours compiled), the faster of which counts; medians over the steps after the first few. trl's steps are those of
its own Trainer. Rollout tokens a second are counted alone, too. The table is benchmarks/results/alignment.json.
"""
import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record, worker

PAIRS, PROMPTS, GROUP, LENGTH, CONTEXT = 8, 8, 8, 48, 256
WARM, STEPS = 4, 12
WORDS = ("river", "stone", "light", "under", "seven", "grass", "house", "green", "small", "other", "paper", "wheel")


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of random words: a prompt of 90 words, answers of 60 to 100."""
    rng = np.random.default_rng(seed)
    def text(n: int) -> str:
        return " " + " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), n))
    return [{"prompt": text(90), "chosen": text(int(rng.integers(60, 101))), "answer": "seven",
             "rejected": text(int(rng.integers(60, 101)))} for _ in range(count)]


def model(folder: Path, tiny: bool) -> None:
    """The network and its tokenizer, in transformers' layout."""
    import torch

    from meristem.codecs import bpe
    from meristem.hub import hf
    from meristem.models import llama
    codec = bpe.fit([row["prompt"] + "." for row in rows(50)], 340)
    torch.manual_seed(0)
    config = llama.Config(4096, 1024, *((64, 2, 4) if tiny else (256, 6, 8)))
    module = llama.Model(config)
    for p in module.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.02)
    hf.save(folder, "llama", config, module, codec)


def ours(method: str, dtype: str, folder: Path, steps: int) -> dict[str, Any]:
    """Seconds a step of the one trainer, and how many pairs or answers a step has."""
    from meristem.core.config import edit
    from meristem.recipes import recipes
    from meristem.train.run import assemble, trainer_of
    data = folder / f"{method}-{dtype}"
    data.mkdir()
    columns = ("prompt", "chosen", "rejected") if method == "dpo" else ("prompt", "answer")
    for split, count in (("train", 400), ("validation", 4), ("test", 4)):
        made = [json.dumps({key: row[key] for key in columns}) + "\n" for row in rows(count, len(split))]
        (data / f"{split}.jsonl").write_text("".join(made))
    edits: dict[str, Any] = {"base": str(folder / "model"), "data.corpus": str(data), "train.dtype": dtype,
                             "train.context": 512 if method == "dpo" else CONTEXT, "train.steps": 1000,
                             "train.batch": PAIRS if method == "dpo" else PROMPTS,
                             "train.compile": not (folder / "tiny").exists()}
    if method == "grpo":
        edits |= {"objective.group": GROUP, "objective.length": LENGTH, "objective.reward": "exact"}
    parts = assemble(edit(recipes()[method](), edits))
    trainer = trainer_of(parts)
    trainer.objective.train()
    seconds: list[float] = []
    pairs: list[int] = []
    for step in range(WARM + steps):
        batch = trainer.source(step)
        start = time.perf_counter()
        trainer.update(batch)
        trainer.step += 1
        seconds.append(time.perf_counter() - start)
        pairs.append(int((batch[0]["labels"] == 1).sum()) if method == "dpo" else PROMPTS * GROUP)
    rate = statistics.median(n / s for n, s in zip(pairs[WARM:], seconds[WARM:], strict=True))
    return {"rate": rate, "seconds": statistics.median(seconds[WARM:])}


def theirs(method: str, dtype: str, folder: Path, steps: int) -> dict[str, Any]:
    """The same by trl."""
    import datasets  # type: ignore[import-untyped]
    import transformers
    import trl
    clock = [0.0]
    seconds: list[float] = []

    class Clock(transformers.TrainerCallback):
        """Times steps as the trainer makes them."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            """Starts."""
            clock[0] = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Stops."""
            seconds.append(time.perf_counter() - clock[0])
    network = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    args: dict[str, Any] = {"output_dir": str(folder / "out"), "use_cpu": True, "report_to": [],
                            "bf16": dtype == "bfloat16", "max_steps": WARM + steps, "save_strategy": "no",
                            "logging_steps": 1000, "gradient_checkpointing": False, "learning_rate": 1e-4,
                            "disable_tqdm": True}
    made = datasets.Dataset.from_list(rows(400, len("train")))
    config: Any
    trainer: Any
    if method == "dpo":
        config = trl.DPOConfig(per_device_train_batch_size=PAIRS, max_length=512, **args)
        trainer = trl.DPOTrainer(network, transformers.AutoModelForCausalLM.from_pretrained(folder / "model"), config,
                                 train_dataset=made.remove_columns("answer"), processing_class=tokenizer)
    else:
        config = trl.GRPOConfig(per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
                                max_completion_length=LENGTH, beta=0.0, **args)
        trainer = trl.GRPOTrainer(network, lambda completions, **_: [float("seven" in c) for c in completions], config,
                                  made.select_columns(["prompt"]), processing_class=tokenizer)
    trainer.add_callback(Clock())
    trainer.train()
    each = statistics.median(seconds[WARM:])
    return {"rate": (PAIRS if method == "dpo" else PROMPTS * GROUP) / each, "seconds": each}


def rollouts(dtype: str, folder: Path) -> dict[str, Any]:
    """Tokens a second of a policy's answers, drawn and judged by the training forward."""
    import torch

    from meristem.data.conversations import Reader
    from meristem.data.questions import Questions
    from meristem.hub import hf
    from meristem.nn.linear import compute_in
    from meristem.objectives.grpo import Grpo
    loaded = hf.load(folder / "model")
    assert loaded.codec is not None
    reader = Reader(loaded.codec)
    policy = Grpo(compute_in(loaded.module, getattr(torch, dtype)), reader, group=GROUP, length=LENGTH).train()
    source = Questions(rows(64), reader, CONTEXT, LENGTH, PROMPTS, 0)
    rate = []
    for step in range(4):
        torch.manual_seed(step)
        start = time.perf_counter()
        with torch.no_grad():
            made = policy.prepare(source(step)[0])
        rate.append(float(made["weight"].sum()) / (time.perf_counter() - start))
    return {"rate": statistics.median(rate[1:]), "redrawn": policy.redrawn}


def main() -> None:
    """Every worker once; the faster type of each side counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small network, two steps: to see that it runs")
    parser.add_argument("--worker", nargs=4)
    given = parser.parse_args()
    if given.worker:
        side, method, dtype, folder = given.worker
        steps = 2 if (Path(folder) / "tiny").exists() else STEPS
        if side == "rollouts":
            print(json.dumps(rollouts(dtype, Path(folder))))
        else:
            print(json.dumps((ours if side == "ours" else theirs)(method, dtype, Path(folder), steps)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, result = Path(place), dict[str, Any]()
        if given.tiny:
            (folder / "tiny").touch()
        model(folder / "model", given.tiny)
        types = ("float32",) if given.tiny else ("float32", "bfloat16")
        for method in ("dpo", "grpo"):
            found = {side: {dtype: worker("benchmarks.alignment", side, method, dtype, place) for dtype in types}
                     for side in ("ours", "trl")}
            best = {side: max(by["rate"] for by in some.values()) for side, some in found.items()}
            result[method] = {**found, "times trl": best["ours"] / best["trl"]}
        result["rollout tokens a second"] = {dtype: worker("benchmarks.alignment", "rollouts", "grpo", dtype, place)
                                             for dtype in types}
        record("alignment-tiny" if given.tiny else "alignment", result)


if __name__ == "__main__":
    main()
