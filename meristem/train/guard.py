"""Loss spikes: seen before they reach the weights, and healed by going back and round the guilty batches.

    guard = Guard()
    guard.judge(loss, norm)              # "" for a healthy step, else why it must not be applied
    guard.lost                           # the first step of a blow-up that refusing single steps does not stop, or None

The rule is the median and the median absolute deviation (MAD) of the last steps that were applied: a mean and a
standard deviation are widened by the first spike and let the second one pass. A step is refused when its loss lies 10
MAD above the median, when its gradient norm lies 10 MAD above and is 8 times as high (healthy runs here reached 3.7 MAD
in the loss, 23 MAD and 5 times the median in the norm), or when one of them is no number. A norm is not refused where
the loss lies a deviation below its median: when a network finds something out (copying, say), the norm was 13 times the
median for eight steps while the loss fell; clipping is enough there. Nor where PATIENCE batches in a row are steep and
each has an ordinary loss: then it is no batch's fault, and going back and round them met the next ones as steep (a run
with Muon, 20 times the median, gave up after four rewinds). A refused step changes nothing, and its batch is gone.
PATIENCE refused steps in a row, or a loss that has risen for long, mean that the weights are bad already: the run goes
back to a checkpoint before the first of them and never sees those batches again (Chowdhery et al. 2022, PaLM, section
5.1, https://arxiv.org/abs/2204.02311), which `Detours` remembers. All of it is a function of the losses: a run
that is killed, resumed or repeated takes the same decisions.
"""
import json
import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from meristem.core.errors import MachineError
from meristem.train.mesh import World

WINDOW, LEAST = 128, 32                 # applied steps that are remembered; too few to judge by
SIGMA = 1.4826                          # MAD of a normal distribution -> its standard deviation
LIMIT = 10.0                            # deviations above the median; 8 to 10 are usual
STEEP = 8.0                             # and this many times the median, for gradient norms
SHORT, RISE, DRIFT = 16, 0.1, 3.0       # the median loss of so many steps, a tenth and 3 deviations above its best
PATIENCE = 5                            # refused steps in a row that mean the weights are bad
MARGIN = 16                             # steps before the first bad one that are taken back too
REWINDS = 3                             # after so many the learning rate is wrong, not the data


class Guard:
    """Judges each step by those before it. `state` is what a checkpoint keeps of it."""

    def __init__(self, window: int = WINDOW, least: int = LEAST, short: int = SHORT):
        self.losses: deque[float] = deque(maxlen=window)
        self.norms: deque[float] = deque(maxlen=window)
        self.least, self.short = least, short
        self.best, self.best_step = math.inf, 0
        self.step, self.refused = 0, 0
        self.steep = 0                  # steep steps of ordinary loss in a row

    def judge(self, loss: float, norm: float) -> str:
        """Why the step must not be applied, or "" when it may be; only then do the numbers enter the window."""
        self.step += 1
        why = self._verdict(loss, norm)
        self.refused = self.refused + 1 if why else 0
        if not why:
            self.losses.append(loss)
            self.norms.append(norm)
            if len(self.losses) >= self.least and (recent := median(list(self.losses)[-self.short:])) < self.best:
                self.best, self.best_step = recent, self.step
        return why

    @property
    def lost(self) -> int | None:
        """The first of the steps that cannot be healed by refusing single ones, counted from 0; None when all is
        well."""
        if self.refused >= PATIENCE:
            return self.step - self.refused
        if len(self.losses) < self.least:
            return None
        recent, spread = self._spread(list(self.losses)[-self.short:])
        return self.best_step if recent > self.best + max(RISE * abs(self.best), DRIFT * spread) else None

    @property
    def firsts(self) -> list[int]:
        """The earliest steps that a coming alarm could name as the first bad one, by each of the two rules of
        `lost`."""
        return [self.step - self.refused, *([self.best_step] if len(self.losses) >= self.least else [])]

    def state(self) -> dict[str, Any]:
        """Everything the next judgement depends on, as JSON (which keeps every bit of a float)."""
        return {"losses": list(self.losses), "norms": list(self.norms), "best": self.best if self.losses else None,
                "best_step": self.best_step, "step": self.step, "refused": self.refused,
                "steep": self.steep}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.losses.clear()
        self.norms.clear()
        self.losses.extend(state["losses"])
        self.norms.extend(state["norms"])
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_step, self.step, self.refused = state["best_step"], state["step"], state["refused"]
        self.steep = state.get("steep", 0)                       # older checkpoints lack it

    def _verdict(self, loss: float, norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "its loss or gradient is not finite"
        if len(self.losses) < self.least:
            return ""
        middle, spread = self._spread(self.losses)
        if loss > middle + LIMIT * spread:
            return f"its loss of {loss:.3g} lies {(loss - middle) / spread:.0f} deviations above {middle:.3g}"
        falling, ordinary = loss < middle - spread, loss <= middle + DRIFT * spread
        middle, spread = self._spread(self.norms)
        steep = norm > middle + LIMIT * spread and norm > STEEP * middle
        self.steep = self.steep + 1 if steep and ordinary else 0
        if steep and not falling and self.steep < PATIENCE:
            return f"its gradient norm of {norm:.3g} is {norm / middle:.0f} times the median"
        return ""

    @staticmethod
    def _spread(values: Sequence[float]) -> tuple[float, float]:
        """Median and deviation; the deviation of equal numbers is a thousandth of them, not 0."""
        middle = median(values)
        return middle, max(SIGMA * median(abs(v - middle) for v in values), 1e-3 * abs(middle), 1e-12)


class Lost(Exception):
    """The weights are bad since step `first`; everything up to step `stop` is to be taken back."""

    def __init__(self, first: int, stop: int, why: str):
        super().__init__(why)
        self.first, self.stop, self.why = first, stop, why


@dataclass(frozen=True)
class Detour:
    """One rewind: from step `at` back to the checkpoint of step `to`; batches first .. stop - 1 are never shown
    again."""

    at: int
    to: int
    first: int
    stop: int
    why: str


class Detours:
    """The rewinds of a run, kept in `path` (skips.jsonl), and the order of batches that follows from them.

    They are part of what the run is: with the same detours, data order is a pure function of the step again.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        self.all = [Detour(**json.loads(line)) for line in lines if line.endswith("}")]    # a torn last line is none

    @staticmethod
    def told(world: World, path: Path) -> "Detours":
        """Those that the first process keeps in `path`, on every process of a run; only the first one writes."""
        kept = Detours(path if world.first else None)
        kept.all = [Detour(**fields) for fields in world.told([asdict(d) for d in kept.all])]
        return kept

    def place(self, step: int) -> int:
        """The number of the batch that step `step` is shown."""
        end = 0
        for first, stop in sorted((d.first, d.stop) for d in self.all):
            first = max(first, end)                            # ranges may overlap: a batch is left out once
            if stop > first and step >= first:
                step += stop - first
            end = max(end, stop)
        return step

    def stale(self, step: int, known: int) -> bool:
        """Whether a checkpoint of `step`, written when `known` detours were known, was taken back by a later one."""
        return any(step > detour.to for detour in self.all[known:])

    def add(self, lost: Lost, to: int) -> Detour:
        """Remember a rewind to the checkpoint of step `to`; MachineError when there have been too many."""
        if len(self.all) >= REWINDS:
            raise MachineError(f"training diverged {REWINDS + 1} times, now at step {lost.stop} ({lost.why}); skipping "
                               f"batches does not heal it: start again with a lower train.lr. {self.path} lists what "
                               "was skipped")
        detour = Detour(lost.stop, to, self.place(lost.first), self.place(lost.stop - 1) + 1, lost.why)
        self.all.append(detour)
        if self.path:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(asdict(detour)) + "\n")
                f.flush()
                os.fsync(f.fileno())
        return detour
