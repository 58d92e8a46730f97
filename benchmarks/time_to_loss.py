"""Seconds to a validation loss on tinyshakespeare at character level, beside a `transformers` GPT-2, compilation included.

    python -m benchmarks.time_to_loss PATH/TO/tinyshakespeare/input.txt

The text is 1,115,394 bytes (github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt, public domain). 90 % / 10 % by
position, loss on the whole last tenth, in nats a character. The peer is GPT-2 in nanoGPT's CPU setting (4 layers, 4 heads,
width 128, context 64, batch 12, dropout 0, AdamW 1e-3 to 1e-4 by cosine, betas 0.9/0.99, fp32, compiled), with the
schedule's length that reaches each target soonest. The clock runs from before the model is built, in a fresh process with an
empty compiler cache; it stands still during validation, for both.
"""
import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import record, worker
from meristem.core import machine
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.models import llama
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.trainer import Facts, Trainer, compile_regions

TARGETS = (1.88, 1.65)
PEER_STEPS = {1.88: 2000, 1.65: 5600}
OURS = {                                # one setting a target: the shorter run needs the smaller model
    1.88: (llama.Config(vocab=65, context=64, dim=256, layers=3, heads=4, qk_norm=True),
           Train(steps=150, batch=32, context=64, optimizer="muon", lr=0.02, warmup=10, schedule="wsd", decay=0.6, floor=0.02, compile=False)),
    1.65: (llama.Config(vocab=65, context=128, dim=256, layers=4, heads=4, qk_norm=True),
           Train(steps=350, batch=16, context=128, optimizer="muon", lr=0.01, warmup=20, schedule="wsd", decay=0.5, floor=0.02, compile=False)),
}
Rows = Callable[[torch.Tensor], Batch]


def load(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Character ids of the first nine tenths and of the last tenth."""
    raw = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    ids = np.searchsorted(np.unique(raw), raw)
    cut = int(0.9 * len(ids))
    return torch.from_numpy(ids[:cut]), torch.from_numpy(ids[cut:])


def windows(ids: torch.Tensor, starts: torch.Tensor, context: int) -> Batch:
    """Rows of context + 1 characters beginning at `starts`."""
    rows = ids[starts[:, None] + torch.arange(context + 1)]
    return {"tokens": rows, "weight": torch.ones(len(starts), context)}


def whole(loss_of: Callable[[Batch], torch.Tensor], ids: torch.Tensor, context: int) -> float:
    """Mean loss over every full window of the split, nats a character."""
    starts = torch.arange(0, len(ids) - context - 1, context)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        total = sum(float(loss_of(windows(ids, part, context))) for part in starts.split(64))
    return total / (len(starts) * context)


def ours(path: str, target: float, seed: int) -> dict[str, float]:
    """Train meristem's setting for `target` and return seconds and steps at the first validation below it."""
    train_ids, held_out = load(path)
    machine.tune_allocator()
    machine.set_threads()
    start = time.perf_counter()
    shape, config = OURS[target]
    torch.manual_seed(seed)
    objective = NextToken(compute_in(llama.Model(shape), torch.bfloat16))
    if config.compile:
        compile_regions(objective)

    def source(step: int) -> list[Batch]:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return [windows(train_ids, torch.randint(len(train_ids) - config.context - 1, (config.batch,), generator=g), config.context)]

    state = {"paused": 0.0}

    def check(trainer: Trainer, facts: Facts) -> None:
        if trainer.step >= 0.8 * config.steps and (trainer.step % 10 == 0 or trainer.step == config.steps):
            now = time.perf_counter()
            loss = whole(lambda batch: objective(batch)[0], held_out, config.context)
            state["paused"] += time.perf_counter() - now
            if loss <= target and "seconds" not in state:
                state.update(seconds=now - start - (state["paused"] - (time.perf_counter() - now)), steps=trainer.step, loss=loss)
                trainer.config = replace(config, steps=trainer.step)           # the target is reached: stop
            state["last"] = loss

    Trainer(objective, source, config, seed=seed, hooks=[check]).fit()
    return {"target": target, "seconds": state.get("seconds", float("nan")), "steps": state.get("steps", 0), "loss": state["last"],
            "parameters": sum(p.numel() for p in objective.parameters())}


def peer(path: str, target: float, seed: int) -> dict[str, float]:
    """The same for `transformers`' GPT-2 in nanoGPT's CPU setting."""
    import transformers
    train_ids, held_out = load(path)
    start = time.perf_counter()
    torch.manual_seed(seed)
    steps, context, batch = PEER_STEPS[target], 64, 12
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=65, n_positions=context, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        use_cache=False))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optim = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                              lr=1e-3, betas=(0.9, 0.99), fused=True)

    def loss_of(batch_: Batch) -> torch.Tensor:
        logits = model(input_ids=batch_["tokens"][:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch_["tokens"][:, 1:].flatten(), reduction="sum")

    fast = torch.compile(loss_of)
    g = torch.Generator().manual_seed(seed)
    paused, last = 0.0, float("nan")
    for step in range(steps):
        lr = 1e-3 * (step + 1) / 100 if step < 100 else 1e-4 + 0.45e-3 * (1 + np.cos(np.pi * (step - 100) / (steps - 100)))
        for group in optim.param_groups:
            group["lr"] = lr
        rows = windows(train_ids, torch.randint(len(train_ids) - context - 1, (batch,), generator=g), context)
        (fast(rows) / (batch * context)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0 and step + 1 >= 0.6 * steps:
            now = time.perf_counter()
            last = whole(loss_of, held_out, context)
            if last <= target:
                return {"target": target, "seconds": now - start - paused, "steps": step + 1, "loss": last,
                        "parameters": sum(p.numel() for p in model.parameters())}
            paused += time.perf_counter() - now
    return {"target": target, "seconds": time.perf_counter() - start - paused, "steps": steps, "loss": last, "reached": 0.0,
            "parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    """Both, for both targets, alternating, `--repeats` seeds; medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--worker", nargs=3, metavar=("WHO", "TARGET", "SEED"))
    a = parser.parse_args()
    if a.worker:
        who, target, seed = a.worker
        print(json.dumps({"who": who, **{"ours": ours, "peer": peer}[who](a.text, float(target), int(seed))}))
        return
    rows = [worker("benchmarks.time_to_loss", who, str(target), str(seed), a.text)
            for target in TARGETS for seed in range(a.repeats) for who in ("ours", "peer")]
    table = {}
    for target in TARGETS:
        mine, theirs = (sorted(r["seconds"] for r in rows if r["target"] == target and r["who"] == who) for who in ("ours", "peer"))
        table[str(target)] = {"ours_seconds": mine[len(mine) // 2], "transformers_gpt2_seconds": theirs[len(theirs) // 2],
                              "ratio": theirs[len(theirs) // 2] / mine[len(mine) // 2]}
        print(f"{target}: {table[str(target)]}", file=sys.stderr)
    record("time_to_loss", {"targets": table, "runs": rows})


if __name__ == "__main__":
    main()
