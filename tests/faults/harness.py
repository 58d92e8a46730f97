"""A process that breaks on purpose: imports torch once, then forks a fresh victim for every fault (30 ms instead of 2
s).

`python tests/faults/harness.py WHAT FOLDER` prints one JSON line a case; the tests beside it judge them. Real signals,
real disks: injected write errors alone would not have found that safetensors reports a full disk in a class of its own.
"""
import hashlib
import json
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # the optimizers import it when first used: once here, not in every victim

from meristem.core import faults
from meristem.core.errors import MeristemError
from meristem.core.progress import Progress
from meristem.core.registry import load
from meristem.core.run import Group, Train
from meristem.train.checkpoint import Checkpoints
from meristem.train.trainer import Interrupted, Trainer

SAVE_POINTS = ["ckpt.begin:1", "ckpt.tensors:1", "ckpt.tensors:2", "ckpt.written:1", "ckpt.manifest:1",
               "ckpt.renamed:1", "ckpt.prune:1"]
STEP_POINTS = ["step.begin:1", "step.begin:7", "step.backward:5", "step.end:6", "ckpt.tensors:5", "ckpt.manifest:6",
               "ckpt.renamed:4",
               "ckpt.prune:3"]
STEPS = 9


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def state(step: int, size: int = 4) -> dict:
    """Tensors that tell which step they are of."""
    return {"model": {"w": torch.full((size,), float(step))}, "optim": {"m": torch.full((size,), -float(step))}}


def victim(work: Callable[[], object]) -> tuple[int, object]:
    """Run `work` in a fork; (exit code or minus the signal, its result or None)."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(into, json.dumps(work()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    os.close(into)
    with os.fdopen(out, "rb") as f:
        raw = f.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(raw) if raw else None


def look(folder: Path) -> dict:
    """What a restarted trainer finds, and whether every number of it is right."""
    heard = Heard()
    with Checkpoints(folder, progress=heard) as c:
        step, tensors, meta = c.newest()
    right = all(float(v) == (step if k == "model" else -step) for k,
                named in tensors.items() for t in named.values() for v in t)
    return {"step": step, "right": right and meta == {"n": step}, "warnings": heard.warnings,
            "names": sorted(p.name for p in folder.iterdir())}


def save(folder: Path, steps: list[int], plan: str = "", size: int = 4) -> list[str]:
    """Save `steps` one after the other under planned faults; the warnings."""
    heard = Heard()
    faults.arm(plan)
    with Checkpoints(folder, progress=heard) as c:
        for step in steps:
            c.save(step, state(step, size), {"n": step})
            c.wait()
    return heard.warnings


def saves(root: Path) -> None:
    """A fault of each kind at each point of a third save, then a restart."""
    for at in SAVE_POINTS:
        for what in faults.KINDS:
            folder = root / f"{at}-{what}".replace(":", "-")
            code, warnings = victim(lambda f=folder, p=f"{at}:{what}": (save(f, [1, 2]), save(f, [3], p))[1])
            report(at=at, what=what, code=code, warnings=warnings, found=victim(lambda f=folder: look(f))[1],
                   next=victim(lambda f=folder: (save(f, [4]), look(f))[1])[1])
    folder = root / "limit"
    code, warnings = victim(lambda: limited(folder))
    report(at="limit", what="", code=code, warnings=warnings, found=victim(lambda: look(folder))[1])


def train(folder: Path, plan: str = "", kind: str = "adamw") -> dict:
    """Nine steps of a tiny model with a checkpoint after each; resumes by itself. The hash of all it learned, of
    what it keeps for going on and of what it would export. Optimizers beside adamw come with all that runs may have."""
    torch.manual_seed(0)
    llama = load("models", "llama")
    model = llama.Model(llama.Config(vocab=16, context=8, dim=16, layers=1, heads=2))

    def source(step: int) -> list[dict]:
        tokens = torch.randint(0, 16, (2, 9), generator=torch.Generator().manual_seed(step))
        return [{"tokens": tokens, "weight": torch.ones(2, 8)}]

    config = Train(steps=STEPS, warmup=2, save_seconds=-1.0, dtype="float32", compile=False)
    if kind != "adamw":
        config = replace(config, optimizer=kind, ema=0.9 if kind != "schedule_free" else 0.0, layer_decay=0.8,
                         groups=(Group("norm", freeze=True), Group("mlp.up", lr=0.5)))
    with Checkpoints(folder) as c:
        trainer = Trainer(load("objectives", "next_token").NextToken(model), source, config, checkpoints=c)
        trainer.resume()
        begun = trainer.step
        faults.arm(plan)
        try:
            trainer.fit()
        except Interrupted as signal:
            return {"signal": signal.number, "step": trainer.step}
        tensors = {**trainer.objective.state_dict(), **trainer.optim.state()}
        with trainer.optim.averaged():
            tensors |= {f"{name}:shown": tensor.clone() for name, tensor in trainer.objective.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().float().numpy().tobytes())
    return {"hash": digest.hexdigest(), "begun": begun}


def steps(root: Path) -> None:
    """kill -9 and SIGTERM at points of a training run, a restart, and the hash beside an unbroken run's."""
    report(at="", whole=victim(lambda: train(root / "whole"))[1])
    for at in STEP_POINTS:
        for what in ("kill", "term"):
            folder = root / f"{at}-{what}".replace(":", "-")
            code, first = victim(lambda f=folder, p=f"{at}:{what}": train(f, p))
            report(at=at, what=what, code=code, first=first, again=victim(lambda f=folder: train(f))[1])


def optimizers(root: Path) -> None:
    """The same for every other optimizer, killed within a save."""
    for kind in ("muon", "adafactor", "schedule_free"):
        report(kind=kind, at="", whole=victim(lambda k=kind: train(root / f"{k}-whole", kind=k))[1])
        code, _ = victim(lambda k=kind: train(root / k, "ckpt.manifest:6:kill", k))
        report(kind=kind, at="ckpt.manifest:6", code=code, again=victim(lambda k=kind: train(root / k, kind=k))[1])


def full(disk: Path) -> None:
    """`disk` is a tmpfs of one megabyte: fill it, save, free it, save, fill it, save until the run stops."""
    folder, filler, heard = disk / "run", disk / "filler", Heard()
    done = []
    with Checkpoints(folder, progress=heard) as c:
        for step in range(1, 12):
            if step in (3, 6):
                with open(filler, "wb", 0) as f:
                    f.write(b"x" * (shutil.disk_usage(disk).free - 150_000))
            if step == 5:
                filler.unlink()
            try:
                c.save(step, state(step, 25_000), {"n": step})
                c.wait()
                done.append(step)
            except MeristemError as error:
                report(stopped=step, error=str(error), status=error.status)
                break
    report(saves=done, warnings=heard.warnings, found=look(folder))


def limited(folder: Path) -> list[str]:
    """A limit on the size of files (RLIMIT_FSIZE, as a quota acts) smaller than a checkpoint."""
    save(folder, [1, 2], size=25_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    return save(folder, [3, 4], size=25_000)


def report(**facts: object) -> None:
    """One JSON line."""
    print(json.dumps(facts), flush=True)


def main(what: str, folder: str) -> None:
    """All cases of one kind."""
    {"saves": saves, "steps": steps, "optimizers": optimizers, "full": full}[what](Path(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
