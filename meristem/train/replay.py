"""Was it really so? Recompute steps of a run and compare them, bit for bit, with what its log says.

    replay(Path("runs/llama"), 1200)       # meristem replay runs/llama --step 1200

Data order, randomness and the batches that were left out are functions of the seed, the step and skips.jsonl, so any
step follows from the newest checkpoint before it, or from the seed alone when there is none that old. A difference
means that the machine, the code or the data is not what it was.
"""
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.progress import SILENT, Progress
from meristem.core.run import Run
from meristem.train.checkpoint import Checkpoints
from meristem.train.guard import Detours
from meristem.train.hooks import read_log
from meristem.train.mesh import connect
from meristem.train.pieces import Share
from meristem.train.run import LOG, RECIPE, SKIPS, assemble, trainer_of

COMPARED = ("loss", "grad_norm", "lr", "targets")


@dataclass(frozen=True)
class Replay:
    """Steps `first` .. `step` computed again; `differences` lists (step, fact, logged, recomputed)."""

    first: int
    step: int
    differences: list[tuple[int, str, Any, Any]]


def replay(folder: Path, step: int, progress: Progress = SILENT) -> Replay:
    """Recompute the run in `folder` up to `step` (counted from 1, as in its log), writing nothing.

    RequestError when the folder is no run or the step is not in its log; a run that is still training is refused. What
    many processes computed, as many recompute (torchrun, as the run was started).
    """
    if not (folder / RECIPE).is_file():
        raise RequestError(f"{folder} is not a run folder (it has no {RECIPE})")
    logged = {line["step"]: line for line in read_log(folder / LOG)}
    if step not in logged:
        raise RequestError(f"{folder} has no step {step} in its log; it has {min(logged, default=0)} to "
                           f"{max(logged, default=0)}")
    run = from_dict(Run, read_json(folder / RECIPE))
    place = folder / "checkpoints"
    with connect(run.train) as world, closing(Checkpoints(place, run.train.keep, progress) if world.first else
                                              Share(place, world.rank)) as checkpoints:
        world.lead(checkpoints.lock)
        parts = world.in_turn(lambda: assemble(run, progress))
        trainer = trainer_of(parts, checkpoints, Detours.told(world, folder / SKIPS), world)
        trainer.objective.train()
        trainer.resume(last=step - 1)
        first, differences = trainer.step + 1, []
        progress.stage("replay", step - trainer.step)
        while trainer.step < step:
            facts = trainer.update(trainer.source(trainer.detours.place(trainer.step)))
            trainer.step += 1
            progress.update(trainer.step - first + 1, loss=facts["loss"])
            was = logged.get(trainer.step, {})
            differences += [(trainer.step, key, was[key], facts[key]) for key in COMPARED
                            if key in was and was[key] is not None and was[key] != facts[key]]
    return Replay(first, step, differences)
