"""Quality at equal wall-clock: one U-Net trained for the same seconds by us and in the way of diffusers, judged alike.

    python -m benchmarks.picture_quality --seconds 120 --out runs/quality      # `--tiny`: does it run?

The U-Net of benchmarks/pictures.py begins with the same weights on both sides and sees the same scenes of 32 x 32 in
the same order: AdamW at 5e-4 in batches of 16, bf16, no compiler. Ours is the trainer that every recipe goes through,
theirs the loop of diffusers' example of unconditional training. Seconds are of training alone. Both networks then paint
with the same sampler and noise, and `evals.frechet` says how far the pictures are from held-out ones: features of a
fixed network of our own, jackknifed, 95 % intervals, also of the difference. Result: `picture_quality.json`.
"""
import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import pictures
from benchmarks.common import record, worker
from meristem.codecs.image import encode, grid
from meristem.core import machine
from meristem.core.run import Train
from meristem.data import scenes
from meristem.data.loader import Order
from meristem.evals.frechet import features, pseudo
from meristem.evals.pictures import Seen
from meristem.evals.statistics import bootstrap
from meristem.generate.pictures import Wish, paint
from meristem.models.unet import Config, Model
from meristem.nn.image import between
from meristem.nn.linear import compute_in
from meristem.objectives.diffusion import Diffusion
from meristem.train.painting import as_bytes
from meristem.train.trainer import Trainer

LR, COUNT, STEPS, SHOWN = 5e-4, {False: 200, True: 4}, {False: 20, True: 2}, 16


class Theirs(nn.Module):
    """diffusers' network under our names."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        """What it says of noisy pictures [B, C, H, W] at times [B], in bf16 as it was trained."""
        with torch.autocast("cpu", torch.bfloat16):
            said: Tensor = self.module(images, time).sample
        return said.float()


def steps_of(whose: str, module: Any, objective: Diffusion, batch: Callable[[int], Tensor]) -> Callable[[int], None]:
    """One update by number: our trainer's, or that of diffusers' example."""
    if whose == "ours":
        loop = Trainer(objective.train(), lambda step: [{"images": batch(step), "weight": torch.ones(pictures.BATCH)}],
                       Train(steps=10**6, batch=pictures.BATCH, lr=LR, warmup=1, floor=1.0, guard=False))

        def ours(step: int) -> None:
            loop.update(loop.source(step))
            loop.step = step + 1
        return ours
    import diffusers

    scheduler = diffusers.DDPMScheduler()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def theirs(step: int) -> None:
        clean = between(batch(step))
        noise, when = torch.randn_like(clean), torch.randint(0, 1000, (len(clean),))
        noisy = scheduler.add_noise(clean, noise, when)
        with torch.autocast("cpu", torch.bfloat16):
            said = module(noisy, when).sample
        torch.nn.functional.mse_loss(said.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return theirs


def measure(whose: str, seconds: float, out: Path, tiny: bool) -> dict[str, Any]:
    """Train, paint, judge."""
    machine.tune_allocator()
    machine.set_threads()
    corpus = scenes.make(out / "scenes", {"documents": 40 if tiny else 4000, "objects": 1, "held_out": 0.0})
    side, count = pictures.SHAPE["image"], COUNT[tiny]
    train, test = (Seen.of(corpus, split, side) for split in ("train", "test"))
    order = Order(len(train.pixels), pictures.BATCH, 0)
    torch.manual_seed(0)
    ours = Model(Config(**(pictures.TINY if tiny else pictures.SHAPE)))
    module = ours if whose == "ours" else pictures.peer(ours).train()
    objective = Diffusion(compute_in(ours, torch.bfloat16))
    update = steps_of(whose, module, objective, lambda step: torch.from_numpy(train.pixels[order(step)[0]]))
    begun, cpu, step = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        update(step)
        step += 1
    cpu = time.process_time() - cpu
    painter = objective.painter()
    if whose == "theirs":
        painter = replace(painter, network=Theirs(module))
    made = as_bytes(paint(painter, Wish(("",) * count, steps=STEPS[tiny]))).numpy()
    (out / f"{whose}.png").write_bytes(encode(grid(made[:SHOWN])))
    values = pseudo(features(test.pixels[:count]), features(made))
    real = pseudo(features(test.pixels[:count]), features(np.asarray(train.pixels[:count])))
    return {"who": whose, "steps": step, "cpu_minutes": cpu / 60, "values": values.tolist(),
            "training pictures": float(real.mean())}


def told(values: list[float]) -> dict[str, float]:
    """A mean with its interval."""
    low = bootstrap(values, [1.0] * len(values), [str(i) for i in range(len(values))], 0)
    return {"mean": float(np.mean(values)), "low": low.low, "high": low.high}


def main() -> None:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--worker", nargs=4)
    a = parser.parse_args()
    if a.worker:
        whose, seconds, out, size = a.worker
        print(json.dumps(measure(whose, float(seconds), Path(out), size == "tiny")))
        return
    words = (str(1.0 if a.tiny else a.seconds), str(a.out), "tiny" if a.tiny else "full")
    runs = {whose: worker("benchmarks.picture_quality", whose, *words) for whose in ("ours", "theirs")}
    values = {whose: run.pop("values") for whose, run in runs.items()}
    result = {"seconds": a.seconds, "n": len(values["ours"]), "runs": runs,
              "frechet": {whose: told(some) for whose, some in values.items()},
              "ours - theirs": told([x - y for x, y in zip(values["ours"], values["theirs"], strict=True)])}
    if a.tiny:
        print(json.dumps(result))
    else:
        record("picture_quality", result)


if __name__ == "__main__":
    main()
