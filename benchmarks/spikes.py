"""Poison in a real run (row G4): what the guard does about it, and what is left of it in the final loss.

    python -m benchmarks.spikes CORPUS [--seeds 0 1 2] [--steps 400]

A character model on real text is trained three times from each seed: clean; with one poisoned batch in the middle (its
ids are drawn at random); and with the weights thrown out of place in one step (-2 times themselves), as a bad update
does, so that refusing steps does not help. Said are which steps were refused, what was gone back over, which batches
were left out, and the validation losses. Target: the poisoned batch and no other is left out, the second fault is
healed by going back, and both end within 0.01 nats of the clean run. benchmarks/results/spikes.json.
"""
import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import record
from meristem.core.config import Part
from meristem.core.progress import SILENT
from meristem.core.run import Data, Run, Train
from meristem.train import run as runs
from meristem.train.checkpoint import Checkpoints
from meristem.train.guard import Detours
from meristem.train.hooks import read_log, validate

SHAPE = {"dim": 64, "layers": 2, "heads": 4, "groups": 4, "hidden": 176}


def trained(run: Run, folder: Path, fault: str, at: int) -> dict[str, Any]:
    """Train with a fault at step `at`; what was refused, left out and reached."""
    folder.mkdir(parents=True)
    parts, due = runs.assemble(run), [True]
    source = parts.source

    def poisoned(step: int) -> list[dict[str, torch.Tensor]]:
        micro = source(step)
        if step == at and fault == "batch":
            g = torch.Generator().manual_seed(step)
            micro = [{**b, "tokens": torch.randint(parts.codec.vocab, b["tokens"].shape, generator=g)} for b in micro]
        return micro

    def thrown(trainer: runs.Trainer, facts: dict[str, Any]) -> None:
        if facts["step"] % 20 == 0:
            trainer.save(wait=True)
        if fault == "weights" and facts["step"] == at and due:
            due.clear()
            with torch.no_grad():
                for p in trainer.objective.parameters():
                    p.mul_(-2.0)
    parts.source = poisoned
    with Checkpoints(folder / "checkpoints") as checkpoints:
        trainer = runs.trainer_of(parts, checkpoints, Detours(folder / "skips.jsonl"))
        runs.fit(trainer, folder / "log.jsonl", [thrown], SILENT)
    lines = read_log(folder / "log.jsonl")
    return {"validation": validate(parts.objective, parts.held_out),
            "refused": [{"step": line["step"], "why": line["skipped"]} for line in lines if line["skipped"]],
            "gone_back": [asdict(detour) for detour in trainer.detours.all]}


def main() -> None:
    """Every seed and fault, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    train = Train(steps=asked.steps, batch=16, context=64, lr=3e-3, warmup=20, compile=False, dtype="float32",
                  save_seconds=1e9)
    run = Run("spikes", Part("llama", SHAPE), data=Data(os.path.abspath(asked.corpus), Part("char")), train=train)
    rows, begun = [], time.process_time()
    with tempfile.TemporaryDirectory() as place:
        for seed in asked.seeds:
            clean = 0.0
            for fault in ("none", "batch", "weights"):
                found = trained(replace(run, seed=seed), Path(place) / f"{fault}-{seed}", fault, asked.steps // 2)
                clean = found["validation"] if fault == "none" else clean
                rows.append({"seed": seed, "fault": fault, **found, "above_clean": found["validation"] - clean})
                print(json.dumps(rows[-1]), flush=True)
    record("spikes", {"steps": asked.steps, "cpu_minutes": (time.process_time() - begun) / 60, "rows": rows})


if __name__ == "__main__":
    main()
