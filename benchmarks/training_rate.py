"""Training tokens/s and share of the measured bf16 peak, beside the `transformers` Trainer and `litgpt`.

    python -m benchmarks.training_rate            # a 10.7 M Llama; litgpt needs `make bench-peers` once
    python -m benchmarks.training_rate --shape bert-160m       # any of benchmarks/shapes.py; all: every one in turn
    python -m benchmarks.training_rate --shape t5-10m --tiny   # does every worker run? Two steps; nothing is recorded

Shapes and FLOPs are in benchmarks/shapes.py; AdamW with clipping at 1 everywhere, fp32 master weights here. Each peer
runs in several settings and is judged by its best; T5 has no fused attention there. The peak is measured before and
after each block of steps, and the larger one counts. Results: `training_rate.json`, `training_rate_SHAPE.json`.
"""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common import PEERS, peak_bf16, record, worker
from benchmarks.shapes import SHAPES, TINY, Shape

DEFAULT = "llama-10m"
LITGPT = PEERS / "litgpt" / "bin" / "python"


def settings(name: str) -> dict[str, list[str]]:
    """Each peer's settings for a shape: precision-attention[-compile] of transformers, true[-compile] of litgpt."""
    family, size = name.split("-")
    theirs = {DEFAULT: ["bf16-sdpa", "bf16-sdpa-compile", "bf16-eager-compile", "true-sdpa", "true-eager-compile"],
              "t5-10m": ["bf16-eager-compile", "true-eager", "true-eager-compile"],
              "t5-160m": ["bf16-eager-compile", "true-eager-compile"]}
    some = ["bf16-sdpa-compile", "true-sdpa-compile", "true-eager-compile"]
    mine = ["true", "true-compile"] if size == "10m" else ["true-compile"]
    return {"transformers": theirs.get(name, some if size == "10m" else some[::2])} | (
        {"litgpt": mine} if family in ("llama", "gpt2") else {})


def timed(shape: Shape, step: Callable[[], None]) -> dict[str, float]:
    """Steps after some warm ones in blocks, the peak measured around each: a shared machine changes its speed.

    Returns the median seconds of a step as a rate, and the median over the blocks of their share of the larger peak.
    """
    for _ in range(shape.warm):
        step()
    blocks, seconds, peak = [], [], peak_bf16()
    for _ in range(shape.blocks):
        block = []
        for _ in range(shape.steps // shape.blocks):
            start = time.perf_counter()
            step()
            block.append(time.perf_counter() - start)
        before, peak = peak, peak_bf16()
        blocks.append(report(shape, statistics.median(block), max(before, peak)))
        seconds += block
    share = statistics.median(block["share_of_peak"] for block in blocks)
    whole = report(shape, statistics.median(seconds), max(b["peak"] for b in blocks))
    return {**whole, "share_of_peak": share}


def report(shape: Shape, seconds: float, peak: float) -> dict[str, float]:
    """Rate and share of peak from the seconds of one step."""
    return {"tokens_per_second": shape.tokens / seconds, "share_of_peak": shape.flops / seconds / peak, "peak": peak}


def ours(shape: Shape) -> dict[str, float]:
    """meristem's trainer: compiled regions, bf16 arithmetic on fp32 weights, fused AdamW."""
    from meristem.core import machine
    from meristem.core.run import Train
    from meristem.nn.linear import compute_in
    from meristem.train.trainer import Trainer, compile_regions
    machine.tune_allocator()
    machine.set_threads()
    objective, batch = shape.module()
    compute_in(objective, torch.bfloat16)
    compile_regions(objective)
    trainer = Trainer(objective, lambda step: [batch],
                      Train(steps=shape.steps, batch=shape.rows, context=shape.context))
    return timed(shape, lambda: trainer.update([batch]) and None)


def transformers(shape: Shape, setting: str) -> dict[str, float]:
    """The `transformers` Trainer on the same shape; `setting` is precision-attention[-compile]."""
    import tempfile

    import transformers as hf
    precision, attention, *more = setting.split("-")
    model, batch = shape.transformers(attention)
    if precision == "true":
        model = model.bfloat16()
    marks: list[float] = []

    class Marks(hf.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            marks.append(time.perf_counter())

    count = shape.steps + shape.warm
    data = [{key: rows[i] for key, rows in batch.items()} for i in range(shape.rows)] * count
    with tempfile.TemporaryDirectory() as out:
        arguments = hf.TrainingArguments(
            out, per_device_train_batch_size=shape.rows, max_steps=count, bf16=precision == "bf16",
            torch_compile=bool(more), optim="adamw_torch_fused", max_grad_norm=1.0, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, use_cpu=True)
        peak = peak_bf16()
        hf.Trainer(model, arguments, train_dataset=data, callbacks=[Marks()]).train()
    steps = [b - a for a, b in zip(marks[shape.warm - 1:], marks[shape.warm:], strict=False)]
    return report(shape, statistics.median(steps), max(peak, peak_bf16()))


def litgpt(shape: Shape, setting: str) -> dict[str, float]:
    """litgpt's GPT in bf16-true with fused AdamW; `setting` is true[-compile]."""
    model = shape.litgpt().bfloat16()
    fast = torch.compile(model) if setting.endswith("compile") else model
    optim = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = shape.ids(shape.context + 1)

    def step() -> None:
        logits = fast(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)

    return timed(shape, step)


def compare(name: str, tiny: bool) -> None:
    """Ours, then each peer in each of its settings, then ours again; ours is the median of its runs."""
    size = ["--tiny"] if tiny else []
    runs = [worker("benchmarks.training_rate", name, "ours", *size)]
    peers = settings(name)
    for who, each in peers.items():
        python = str(LITGPT) if who == "litgpt" else sys.executable
        if not Path(python).exists():
            print(f"{who} is left out: run make bench-peers first", file=sys.stderr)
            continue
        runs += [worker("benchmarks.training_rate", name, who, s, *size, python=python) for s in each]
        if name == DEFAULT or who == list(peers)[-1]:
            runs.append(worker("benchmarks.training_rate", name, "ours", *size))
    mine = {key: statistics.median(r[key] for r in runs if r["who"] == "ours")
            for key in ("tokens_per_second", "share_of_peak")}
    rates = {who: [r["tokens_per_second"] for r in runs if r["who"] == who] for who in peers}
    best = {who: max(each) for who, each in rates.items() if each}
    if not tiny:
        record("training_rate" if name == DEFAULT else f"training_rate_{name}",
               {"shape": name, "ours": mine, "peers_best": best, "runs": runs,
                "ratio": {who: mine["tokens_per_second"] / rate for who, rate in best.items()}})


def main() -> None:
    """One shape, or all in turn; or one worker of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default=DEFAULT)
    parser.add_argument("--tiny", action="store_true", help="two steps of a tiny network in every worker")
    parser.add_argument("--worker", nargs="+")
    a = parser.parse_args()
    if a.worker:
        name, who, *setting = a.worker
        shape = replace(SHAPES[name], **TINY) if a.tiny else SHAPES[name]
        result = {"ours": ours, "transformers": transformers, "litgpt": litgpt}[who](shape, *setting)
        print(json.dumps({"who": who, "setting": setting, **result}))
        return
    for name in SHAPES if a.shape == "all" else [a.shape]:
        compare(name, a.tiny)


if __name__ == "__main__":
    main()
