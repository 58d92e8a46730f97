"""The one training loop. Every paradigm in `objectives/` runs through `Trainer.update`.

    source(step) -> prepare -> loss / global weight -> backward -> guard -> clip -> step -> after_step

Data and randomness are functions of (seed, step), never of history, so a resumed run draws what an unbroken run would
have drawn and nothing about generators needs saving. The loss of a step is the sum over all its micro-batches divided
by the count of trained targets in all of them, so micro-batching never changes what is minimised. A step that the guard
refuses changes nothing; when the weights are bad already, `fit` goes back to a checkpoint and round the guilty batches.
"""
import functools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from meristem.core.errors import MachineError
from meristem.core.faults import point
from meristem.core.random import seed_of
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.nn.norm import LayerNorm, RMSNorm
from meristem.objectives.base import Objective
from meristem.train.checkpoint import Checkpoints, Found
from meristem.train.guard import MARGIN, Detour, Detours, Guard, Lost
from meristem.train.optim import Optimizer, schedule
from meristem.train.pieces import Share
from meristem.train.private import processes_of
from meristem.train.processes import One

Facts = dict[str, Any]
Hook = Callable[["Trainer", Facts], None]
OWED = "unfinished"                     # among the facts of a step: a signal cut one of its hooks short
SHAPES = 64                             # kernels of one function, for as many shapes of its input


class Interrupted(BaseException):
    """A signal asked the run to stop; it has been saved. `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.number = number


class Trainer:
    """Runs `objective` on `source(step)` for `config.steps` updates; `hooks` see each step's facts."""

    def __init__(self, objective: Objective, source: Callable[[int], list[Batch]], config: Train, *, seed: int = 0,
                 hooks: Iterable[Hook] = (), checkpoints: Checkpoints | Share | None = None,
                 detours: Detours | None = None, processes: One | None = None):
        self.objective, self.source, self.config, self.seed = objective, source, config, seed
        self.hooks, self.checkpoints, self.processes = list(hooks), checkpoints, processes_of(processes, config)
        self.optim = Optimizer(objective, config)
        self.guard, self.detours = Guard(), detours or Detours()
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.facts: Facts = {}                                 # of the last step
        self.asked: list[int] = []                             # signals that came, while it fits
        self.saved = time.monotonic()
        self.began, self.own = time.perf_counter(), 0.0        # of a step; and its seconds until it waits for others
        self.aside = {"saving": 0.0, "watching": 0.0}          # seconds of this process spent between steps, by cause

    def fit(self) -> Facts:
        """Train to the last step and return its facts.

        A signal saves and raises `Interrupted`; a blow-up raises `Lost`, after which `go_back` mends the run.
        """
        self.objective.train()
        if self.step == 0 and self.config.guard:
            self.save()                                        # a blow-up in the first minute has somewhere to go back
        with stop_asked() as self.asked:
            if self.facts.pop(OWED, False):
                self._watch()
                self._stop()
            while self.step < self.config.steps:
                start = self.began = time.perf_counter()
                facts = self.update(self.source(self.detours.place(self.step)))
                self.step += 1
                elapsed = time.perf_counter() - start
                self.tokens += facts["targets"]
                self.seconds += elapsed
                self.facts = facts
                if self.processes.world.mesh.world > 1:
                    facts["own_seconds"] = self.own
                facts |= {"step": self.step, "step_seconds": elapsed, "tokens": self.tokens, "seconds": self.seconds}
                self._watch()
                self.processes.compare(self.step, self.objective, facts)
                lasting = self.config.permanent and self.step % self.config.permanent == 0
                due = lasting or time.monotonic() - self.saved > self.config.save_seconds
                due = self._stop(due)                          # before a blow-up is healed: the next run sees it again
                if self.config.guard and (first := self.guard.lost) is not None:
                    raise Lost(first, self.step, facts["skipped"] or "its loss has been rising")
                if self.checkpoints:
                    self.checkpoints.check()                   # a save that failed behind our back is said at once
                    if due:
                        self.save()
        self.save(wait=True)
        return self.facts

    def _watch(self) -> None:
        """Show the last step's facts to the hooks; those after one that a signal cut short wait for the next launch."""
        with self.aside_for("watching"):
            for hook in self.hooks:
                if OWED not in self.facts:
                    hook(self, self.facts)

    def _stop(self, due: bool = False) -> bool:
        """Save and raise `Interrupted` when any process was asked to; else whether a save is due by the first one."""
        signalled, due = self.processes.agree(self.asked[0] if self.asked else 0, due)
        if signalled:
            self.save(wait=True)
            raise Interrupted(signalled)
        return due

    def update(self, micro: list[Batch]) -> Facts:
        """One optimizer step over some micro-batches: normalise, clip, skip what is not finite."""
        torch.manual_seed(seed_of(self.seed, "step", self.step))
        point("step.begin")
        with torch.no_grad():
            micro = [self.processes.mine(self.objective.prepare(batch)) for batch in micro]
            self.own = time.perf_counter() - self.began
            total, = self.processes.sum(sum(float(self.objective.weight(batch)) for batch in micro))
        self.processes.seed(self.seed, self.step)
        share = total if 0 < total < math.inf else 1.0         # nothing to train on, or a NaN: the step will be skipped
        sums = self.processes.backward(self.objective, micro, share)
        point("step.backward")
        norm = self.processes.norm(self.optim.params)
        facts: Facts = {key: float(value) / share for key, value in sums.items()}
        skipped = self.refusal(facts["loss"] if share == total else math.nan, float(norm))
        lr = self.config.lr * schedule(self.config, self.step)
        if skipped:                                            # a NaN never reaches the weights
            self.optim.drop()
            self.objective.after_skip()
        else:
            if float(norm) > self.config.clip:                 # else a pass over all gradients that multiplies by 1
                self.processes.clip(self.optim.params, self.config.clip, norm)
            self.optim.step(lr)
            self.objective.after_step(self.step)
        point("step.end")
        return facts | {"lr": lr, "grad_norm": float(norm), "targets": 0 if skipped else int(total), "skipped": skipped}

    def refusal(self, loss: float, norm: float) -> str:
        """Why this step is not applied, or ""."""
        if self.config.guard:
            return self.guard.judge(loss, norm)
        return "" if math.isfinite(loss) and math.isfinite(norm) else "its loss or gradient is not finite"

    def go_back(self, lost: Lost) -> Detour:
        """Return to the newest checkpoint before a blow-up, its batches struck from the order for good.

        MachineError when there is no such checkpoint, or when this has happened too often.
        """
        assert self.checkpoints is not None
        self.checkpoints.wait()
        found = self._newest(max(0, lost.first - MARGIN)) or self._newest(lost.first)
        if found is None:
            raise MachineError(f"training diverged at step {lost.stop} ({lost.why}) and no checkpoint is older: start "
                               "again with a lower train.lr") from None
        detour = self.detours.add(lost, found[0])
        resumed = self.resume()
        assert resumed
        return detour

    def save(self, wait: bool = False) -> None:
        """Hand the whole training state to the checkpointer (asynchronous unless `wait`)."""
        self.saved = time.monotonic()
        if self.checkpoints is None:
            return
        with self.aside_for("saving"):
            tensors, layout = self.processes.pieces({"model": dict(self.objective.state_dict()),
                                                     "optim": self.optim.state()})
            self.checkpoints.save(self.step, tensors, {
                "tokens": self.tokens, "seconds": self.seconds, "seed": self.seed, "guard": self.guard.state(),
                "detours": len(self.detours.all), "facts": self.facts},
                behind=[max(0, first - MARGIN) for first in self.guard.firsts] if self.config.guard else [],
                layout=layout)
            if wait:
                self.checkpoints.wait()

    @contextmanager
    def aside_for(self, cause: str) -> Iterator[None]:
        """Add the seconds of the block to those that passed beside the steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.aside[cause] += time.perf_counter() - start

    def resume(self, last: int | None = None) -> bool:
        """Go on from the newest good checkpoint (of step `last` at most); False when there is none."""
        if self.checkpoints is None:
            return False
        self.checkpoints.forget(lambda step, meta: self.detours.stale(step, meta["detours"]))
        found = self._newest(last)
        if found is None:
            return False
        step, tensors, meta = found
        self.objective.load_state_dict(tensors["model"])
        self.optim.restore(tensors["optim"])
        self.guard.restore(meta["guard"])
        self.step, self.tokens, self.seconds, self.facts = step, meta["tokens"], meta["seconds"], meta["facts"]
        return True

    def _newest(self, last: int | None) -> Found | None:
        assert self.checkpoints is not None
        return self.processes.newest(self.checkpoints, last, self.objective.state_dict().get)


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying mid-step; a second SIGINT aborts at once.

    Once SIGTERM was asked further ones do nothing afterwards either: schedulers send it to the group and to the leader,
    and the second must not kill a process that has saved and is about to say so.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:                                         # not the main thread: signals belong to somebody else
        old = {}
    try:
        yield asked
    finally:
        for s, handler in old.items():
            signal.signal(s, _heard if s == signal.SIGTERM and s in asked else handler)


def _heard(number: int, frame: Any) -> None:
    """Nothing: the process is ending already."""


def compile_regions(objective: Objective) -> None:
    """Compile each repeated block and the loss, not the whole model: equal blocks share one compilation.

    What this process compiled before is forgotten and every shape gets kernels of its own: torch.compile answers a
    second batch size with kernels for any size, whose last bits differ, so a run's bits would hang on what was timed
    before it (a planned run left its log at step 41 when it was replayed; docs/log.md).
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = SHAPES              # at 8, torch's own, a U-Net's ninth block stayed eager
    inside: set[nn.Module] = set()
    every = [module for network in (objective.model, *objective.beside) for module in network.modules()]
    for module in every:
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile(dynamic=False)
                inside.update(block.modules())
    for module in every:
        if isinstance(module, RMSNorm | LayerNorm) and module not in inside:
            module.compile(dynamic=False)                      # the last norm alone took 12 % of a step uncompiled
    objective.score = torch.compile(objective.score, dynamic=False)        # type: ignore[method-assign]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: the members of its ModuleLists."""
    return [block for child in module.modules() if isinstance(child, nn.ModuleList) for block in child]


def recompute_blocks(objective: Objective) -> None:
    """Keep the inputs of each block only, and compute it again in the backward pass: a third more work, the same bits.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    for block in blocks(objective.model):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
