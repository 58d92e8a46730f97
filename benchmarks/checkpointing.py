"""What reliability costs: the stall of a save, the time to resume, and steps a second with all guards on and off.

    python -m benchmarks.checkpointing [--steps 300] [--rounds 3]        # on a quiet machine

The shape of the `llama` recipe (10 million parameters) on random ids, compiled. `stall`: seconds that the loop loses to
one save (the copy, and what steps are longer by while the thread writes), as a share of a minute; `resume`: seconds
from a cold `Checkpoints.newest` to a restored trainer; `guards`: the median step time with spike guard, heartbeat,
goodput and log on over that with all off, measured in turns. Targets: stall below 2 % of a minute, guards at least 0.98
of the rate. benchmarks/results/checkpointing.json.
"""
import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import record, worker
from meristem.core import machine
from meristem.core.run import Train
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.goodput import Goodput
from meristem.train.hooks import Log, careful
from meristem.train.trainer import Trainer, compile_regions
from meristem.train.watch import Watch

# Random ids teach nothing: at a usual rate the loss wanders upwards and the guard, rightly, calls it lost.
CONFIG = Train(steps=10**9, batch=16, context=256, lr=1e-6, save_seconds=1e9)
SHAPE = Config(vocab=4096, context=256, dim=256, layers=6, heads=4, groups=2, hidden=704)
MINUTE = 60.0


class Quiet:
    """Nowhere to warn."""

    def warn(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr)


def trainer(guard: bool, checkpoints: Checkpoints | None = None, compiled: bool = True) -> Trainer:
    """A trainer of the shape on random ids."""
    torch.manual_seed(0)
    objective = NextToken(compute_in(Model(SHAPE), torch.bfloat16))
    if compiled and machine.has_compiler():
        compile_regions(objective)
    tokens = torch.randint(SHAPE.vocab, (8, CONFIG.batch, CONFIG.context + 1))

    def source(step: int) -> list[dict[str, torch.Tensor]]:
        batch = tokens[step % 8]
        return [{"tokens": batch, "weight": torch.ones(CONFIG.batch, CONFIG.context)}]
    return Trainer(objective, source, dataclasses.replace(CONFIG, guard=guard), checkpoints=checkpoints)


def block(run: Trainer, steps: int) -> list[float]:
    """Seconds of each of some steps as `fit` makes them, hooks and all, with what lies between them."""
    marks = [time.perf_counter()]
    run.hooks.append(lambda trainer, facts: marks.append(time.perf_counter()))
    run.config = dataclasses.replace(run.config, steps=run.step + steps)
    checkpoints, run.checkpoints = run.checkpoints, None       # no save at the first and the last step
    run.fit()
    run.checkpoints = checkpoints
    run.hooks.pop()
    return [b - a for a, b in zip(marks, marks[1:], strict=False)]


def guards(steps: int, rounds: int, folder: Path) -> dict[str, float]:
    """Step times with and without everything that watches, in turns, of one trainer: the same memory and kernels."""
    (folder / "on").mkdir()
    run, times = trainer(True), {"off": [], "on": []}  # type: Any, dict[str, list[float]]
    goodput, log = Goodput(folder / "on"), Log(folder / "on" / "log.jsonl")
    with Watch(folder / "on" / "heartbeats") as watch:
        goodput.back(0)
        hooks = [careful(hook, Quiet()) for hook in (goodput, watch, log)]             # type: ignore[arg-type]
        block(run, 40)                                         # compiles, and fills the guard's window
        for turn in range(2 * rounds):
            on = turn % 4 in (1, 2)                            # off, on, on, off: a machine that slows down hits both
            run.config, run.hooks = dataclasses.replace(run.config, guard=on), list(hooks) if on else []
            times["on" if on else "off"] += block(run, steps)
    return {"off_ms": 1e3 * median(times["off"]), "on_ms": 1e3 * median(times["on"]),
            "rate_on_over_off": median(times["off"]) / median(times["on"])}


def saves(rounds: int, folder: Path) -> dict[str, Any]:
    """The loop's loss to a save: the copy, and the steps beside the writing thread; then the time to resume."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        run = trainer(True, checkpoints)
        usual = median(block(run, 30)[5:])
        stalls, copies = [], []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            run.save()
            copies.append(time.perf_counter() - start)
            beside, count = time.perf_counter(), 0
            while checkpoints._pending and not checkpoints._pending[1].done():
                count += len(block(run, 1))
            stalls.append(copies[-1] + time.perf_counter() - beside - count * usual)
            checkpoints.wait()
        size = sum(p.stat().st_size for p in sorted((folder / "checkpoints").glob("step-*"))[-1].iterdir())
        start = time.perf_counter()
        again = trainer(True, checkpoints, compiled=False)
        built = time.perf_counter()
        again.resume()
        return {"megabytes": size / 1e6, "step_ms": 1e3 * usual, "copy_ms": 1e3 * median(copies[1:]),
                "first_copy_ms": 1e3 * copies[0], "stall_ms": 1e3 * median(stalls[1:]),
                "stall_share_of_a_minute": median(stalls[1:]) / MINUTE, "build_seconds": built - start,
                "resume_seconds": time.perf_counter() - built}


def main() -> None:
    """Each part in a process of its own, then the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs="*", default=None)
    asked = parser.parse_args()
    if asked.worker is None:
        record("checkpointing", {part: worker("benchmarks.checkpointing", part, "--steps", str(asked.steps), "--rounds",
                                              str(asked.rounds)) for part in ("guards", "saves")})
        return
    machine.tune_allocator()
    machine.set_threads()
    folder = Path(tempfile.mkdtemp())
    try:
        part = guards(asked.steps, asked.rounds, folder) if asked.worker[0] == "guards" else saves(asked.rounds, folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(part))


if __name__ == "__main__":
    main()
