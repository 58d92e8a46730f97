"""What happens beside the arithmetic of a step: log lines, progress, validation, samples. A hook never changes a run.

What validates and samples sees the average of the weights where the run keeps one (`Optimizer.averaged`).

A hook is called as `hook(trainer, facts)` after each step; it may add to `facts`. Hooks that run the model do so in
eager mode without gradients and leave every generator as they found it: a run with other hooks ends in equal weights.
"""
import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from meristem.core.progress import Progress
from meristem.core.types import Batch
from meristem.objectives.base import Objective
from meristem.train.devices import resting
from meristem.train.processes import One
from meristem.train.trainer import OWED, Facts, Hook, Trainer

EVERY = 1.0                             # seconds between drawn updates


class Log:
    """Appends one JSON line a step to `path`; on resume, lines after the resumed step are dropped first."""

    def __init__(self, path: Path, step: int = 0):
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self.file: IO[str] = open(path, "a", encoding="utf-8", buffering=1)   # noqa: SIM115 - closed by `close`

    def __call__(self, trainer: Trainer, facts: Facts) -> None:
        """Write the facts of one step; numbers that are not finite become null (JSON has no NaN)."""
        self.file.write(json.dumps({k: _plain(v) for k, v in facts.items()}) + "\n")

    def close(self) -> None:
        """Close the file; a full disk has been reported at the line it refused."""
        with contextlib.suppress(OSError):
            self.file.close()


def careful(hook: Hook, progress: Progress) -> Hook:
    """`hook`, whose failures are one warning: a logger or a display must not end the run that it watches."""
    told: list[bool] = []

    def watched(trainer: Trainer, facts: Facts) -> None:
        try:
            hook(trainer, facts)
        except Exception as error:
            if not told:
                told.append(True)
                progress.warn(f"{getattr(hook, '__qualname__', type(hook).__name__).partition('.')[0]} failed at step "
                              f"{trainer.step} ({type(error).__name__}: {error}); training goes on without it until it "
                              "works again")
    return watched


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a torn last line (kill -9 inside a write) is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) >= 0]


def rates(flops_per_token: float, peak: Callable[[bool], float]) -> Hook:
    """Adds tokens_per_second and share_of_peak (training FLOPs of the step over the machine's peak, `peak(False)`).

    A share above 1 proves that the peak was measured on a busy machine: it is measured again, `peak(True)`, once.
    """
    state = {"peak": peak(False), "again": 0.0}

    def hook(trainer: Trainer, facts: Facts) -> None:
        rows = trainer.config.batch * trainer.config.context
        facts["tokens_per_second"] = rows / facts["step_seconds"]
        if facts["tokens_per_second"] * flops_per_token > state["peak"] and not state["again"]:
            state.update(peak=max(state["peak"], peak(True)), again=1.0)
        facts["share_of_peak"] = facts["tokens_per_second"] * flops_per_token / state["peak"]
    return hook


def draw(progress: Progress) -> Hook:
    """Shows loss (smoothed over about 20 steps), rate, share of peak and time left, at most once a second."""
    state = {"loss": math.nan, "rate": math.nan, "drawn": -EVERY}

    def hook(trainer: Trainer, facts: Facts) -> None:
        for key, fact in (("loss", "loss"), ("rate", "step_seconds")):
            old, new = state[key], facts[fact]
            state[key] = new if math.isnan(old) else old + 0.05 * (new - old)
        last = trainer.step == trainer.config.steps
        if last or facts["seconds"] - state["drawn"] >= EVERY:
            state["drawn"] = facts["seconds"]
            left = (trainer.config.steps - trainer.step) * state["rate"]
            progress.update(trainer.step, loss=state["loss"], seconds_left=left, validation=facts.get("validation"),
                            tokens_per_second=facts.get("tokens_per_second"), share_of_peak=facts.get("share_of_peak"))
        if facts["skipped"]:
            progress.warn(f"step {trainer.step} was skipped: {facts['skipped']}")
    return hook


class Unfinished(Exception):
    """A signal asks the run to stop, and what was being measured can be measured when it goes on."""


def validate(objective: Objective, batches: list[Batch], processes: One | None = None,
             asked: Sequence[int] | None = None) -> float:
    """Mean loss per trained target over `batches`, in eager mode; the training state is left as it was.

    `asked`: the signals of a trainer (`Trainer.asked`), at which it ends after a batch; then `Unfinished`.
    """
    among = processes or One()
    training = objective.training
    objective.eval()
    total = weight = 0.0
    with torch.random.fork_rng(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.manual_seed(0)
        for batch in batches:
            if asked is not None and among.agree(asked[0] if asked else 0, False)[0]:
                objective.train(training)
                raise Unfinished
            loss, count = among.judge(objective, objective.prepare(batch))
            total, weight = total + loss, weight + count
    objective.train(training)
    total, weight = among.sum(total, weight)
    return total / max(weight, 1.0)


def every(steps: int, fact: str, measure: Callable[[Sequence[int]], Any]) -> Hook:
    """Sets `facts[fact] = measure(trainer.asked)` every so many steps and at the last one; 0: only at the last one.

    One that a signal leaves `Unfinished` is owed: the trainer asks its hooks again when it goes on.
    """
    def hook(trainer: Trainer, facts: Facts) -> None:
        if trainer.step == trainer.config.steps or (steps and trainer.step % steps == 0):
            with trainer.optim.averaged():
                try:
                    facts[fact] = measure(trainer.asked)
                except Unfinished:
                    facts[OWED] = True
    return hook


def samples(path: Path | None, every_steps: int, draw_text: Callable[[], str], progress: Progress) -> Hook:
    """Appends {"step", "text"} to `path` every so many steps and shows the text; without a path it only helps to draw
    it (the other processes of a run)."""
    def hook(trainer: Trainer, facts: Facts) -> None:
        if every_steps and (trainer.step % every_steps == 0 or trainer.step == trainer.config.steps):
            with trainer.optim.averaged():
                text = draw_text()
            if path is None:
                return
            with open(path, "a", encoding="utf-8") as f:
                f.write(json.dumps({"step": trainer.step, "text": text}) + "\n")
            progress.sample(text)
    return hook


def grids(draw: Callable[[int], Path], every_steps: int, progress: Progress) -> Hook:
    """Has `draw(step)` paint a grid of pictures every so many steps and at the last one, and says where it lies."""
    def hook(trainer: Trainer, facts: Facts) -> None:
        if trainer.step % every_steps == 0 or trainer.step == trainer.config.steps:
            with trainer.optim.averaged(), resting(trainer.objective):
                progress.say(f"pictures of step {trainer.step}: {draw(trainer.step)}")
    return hook


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
