"""Seconds to a validation loss on tinyshakespeare, character by character, beside a `transformers` GPT-2.

    python -m benchmarks.time_to_loss PATH/TO/tinyshakespeare/input.txt

The text is 1,115,394 bytes (github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt, public domain). 90 % / 10 %
by position, loss over the whole last tenth in nats a character. The peer is GPT-2 in nanoGPT's CPU setting: 4 layers, 4
heads, width 128, context 64, batch 12, no dropout, AdamW 1e-3 to 1e-4 by cosine, betas 0.9 and 0.99, fp32, compiled,
over 2,000 steps for the first target (nanoGPT's README) and 5,600 for the second (which is about what it needs). Every
run is a fresh process with an empty compiler cache. The clock starts before the model is built, compilation included,
and stands still during validation, for both.
"""
import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.common import record, worker
from meristem.core import machine
from meristem.core.random import seed_of
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.models import llama
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.trainer import Trainer

PEER_STEPS = {1.88: 2000, 1.65: 5600}
SHAPE = {1.88: llama.Config(vocab=65, context=128, dim=192, layers=3, heads=3, qk_norm=True),
         1.65: llama.Config(vocab=65, context=128, dim=192, layers=4, heads=3, qk_norm=True)}
TRAIN = {target: Train(steps=steps, batch=16, context=128, optimizer="muon", lr=0.008, warmup=20, schedule="wsd",
                       decay=0.5, floor=0.02, compile=False) for target, steps in ((1.88, 120), (1.65, 340))}
CHECK = {"ours": 10, "peer": 100}       # steps between validations, over the last third of a run


class Clock:
    """Seconds since it was made, less those spent inside `paused`."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in the block does not count."""
        before = time.perf_counter()
        yield
        self.start += time.perf_counter() - before


class Data:
    """Character ids of the first nine tenths and of the last tenth of a text, and rows of either."""

    def __init__(self, path: str, context: int) -> None:
        with open(path, "rb") as f:
            raw = np.frombuffer(f.read(), dtype=np.uint8)
        ids = np.searchsorted(np.unique(raw), raw)
        cut = int(0.9 * len(ids))
        self.train, self.held_out = torch.from_numpy(ids[:cut]), torch.from_numpy(ids[cut:])
        self.context = context

    def rows(self, ids: torch.Tensor, starts: torch.Tensor) -> Batch:
        """tokens [B, context + 1] and weight [B, context] of the windows at `starts`."""
        tokens = ids[starts[:, None] + torch.arange(self.context + 1)]
        return {"tokens": tokens, "weight": torch.ones(len(starts), self.context)}

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """Random windows of the training part, a function of seed and step."""
        g = torch.Generator().manual_seed(seed_of(seed, step))
        starts = torch.randint(len(self.train) - self.context, (size,), generator=g)
        return self.rows(self.train, starts)

    def validate(self, summed: Callable[[Batch], torch.Tensor]) -> float:
        """Mean loss over every whole window of the held-out part."""
        starts = torch.arange(0, len(self.held_out) - self.context, self.context)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            total = sum(float(summed(self.rows(self.held_out, part))) for part in starts.split(64))
        return total / (len(starts) * self.context)


def race(step: Callable[[int], object], steps: int, every: int, validate: Callable[[], float], target: float,
         clock: Clock) -> dict[str, float]:
    """Step until a validation is at or below `target`; seconds, steps and loss then, or at the end."""
    loss = float("nan")
    for n in range(steps):
        step(n)
        if (n + 1) % every == 0 and n + 1 >= 0.66 * steps or n + 1 == steps:
            with clock.paused():
                loss = validate()
            if loss <= target:
                break
    return {"target": target, "seconds": clock(), "steps": n + 1, "loss": loss, "reached": loss <= target}


def ours(path: str, target: float, seed: int) -> dict[str, float]:
    """meristem's trainer on a small Llama with Muon, bf16, eager: compiling would take as long as the run."""
    config, shape = TRAIN[target], SHAPE[target]
    data = Data(path, config.context)
    machine.tune_allocator()
    machine.set_threads()
    clock = Clock()
    torch.manual_seed(seed)
    objective = NextToken(compute_in(llama.Model(shape), torch.bfloat16))
    trainer = Trainer(objective, lambda n: [data.batch(config.batch, seed, n)], config, seed=seed)

    def step(n: int) -> None:
        trainer.update(trainer.source(n))
        trainer.step += 1

    return race(step, config.steps, CHECK["ours"], lambda: data.validate(lambda b: objective(b)[0]), target, clock)


def peer(path: str, target: float, seed: int) -> dict[str, float]:
    """`transformers`' GPT-2 in nanoGPT's CPU setting."""
    import transformers
    steps, batch = PEER_STEPS[target], 12
    data = Data(path, 64)
    clock = Clock()
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        use_cache=False))
    decayed, plain = ([p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    optim = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                              lr=1e-3, betas=(0.9, 0.99), fused=True)

    def summed(rows: Batch) -> torch.Tensor:
        logits = model(input_ids=rows["tokens"][:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows["tokens"][:, 1:].flatten(), reduction="sum")

    fast = torch.compile(summed)

    def step(n: int) -> None:
        rise, fall = (n + 1) / 100, 0.1 + 0.45 * (1 + np.cos(np.pi * max(0, n - 100) / (steps - 100)))
        for group in optim.param_groups:
            group["lr"] = 1e-3 * min(rise, fall)
        (fast(data.batch(batch, seed, n)) / (batch * 64)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)

    return race(step, steps, CHECK["peer"], lambda: data.validate(summed), target, clock)


def main() -> None:
    """Both, for both targets, alternating, over `--repeats` seeds; medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--worker", nargs=3, metavar=("WHO", "TARGET", "SEED"))
    a = parser.parse_args()
    if a.worker:
        who, target, seed = a.worker
        result = {"ours": ours, "peer": peer}[who](a.text, float(target), int(seed))
        print(json.dumps({"who": who, "seed": int(seed), **result}))
        return
    runs = [worker("benchmarks.time_to_loss", who, str(target), str(seed), a.text)
            for target in PEER_STEPS for seed in range(a.repeats) for who in ("ours", "peer")]
    table = {}
    for target in PEER_STEPS:
        seconds = {who: float(np.median([r["seconds"] for r in runs if (r["target"], r["who"]) == (target, who)]))
                   for who in ("ours", "peer")}
        table[str(target)] = {**seconds, "ratio": seconds["peer"] / seconds["ours"],
                              "all_reached": all(r["reached"] for r in runs if r["target"] == target)}
        print(f"{target}: {table[str(target)]}", file=sys.stderr)
    record("time_to_loss", {"targets": table, "runs": runs})


if __name__ == "__main__":
    main()
