"""Goodput: the share of a run's wall time, since it was first launched, in which it learned; and where the rest went.

    goodput = Goodput(folder)            # when a launch begins: what passed since the last one was heard is "restart"
    goodput.back(step)                   # steps after `step` will be computed again
    hook: goodput(trainer, facts)        # after every step
    goodput.report().line()              # "goodput 93 %: 120 s of 129 s since the first launch; lost: compile 5 s, ..."

The metric of Llama 3 ("effective training time", Grattafiori et al. 2024, section 3.3.4,
https://arxiv.org/abs/2407.21783) and of ByteRobust (https://arxiv.org/abs/2509.16293). Useful are the steps that the
final weights rest on, in log.jsonl, each at its own time. What is lost, by cause:

| cause | |
| --- | --- |
| setup | the first launch, until its first step: corpus, tokenizer, model |
| restart | from the last sign of a launch that ended to the first step of the next one |
| compile | what the first two steps of a launch took beyond the median step |
| saving | copying tensors for a checkpoint; waiting for the last one |
| watching | validation, samples, the log, the display |
| skipped | steps that the guard refused |
| repeated | steps that a kill undid |
| rewound | steps that the guard took back |
| stalled | what a step of more than three times the median took beyond it |
| other | what none of these explains |

goodput.json is rewritten at most once a second, so a kill moves at most a second from one cause to "restart".
"""
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from meristem.train.hooks import read_log
from meristem.train.trainer import Facts, Trainer

STATE, LOG = "goodput.json", "log.jsonl"
EVERY = 1.0                             # seconds between writes
STALL = 3.0                             # times the median step
FIRST = 2                               # steps of a launch that compile


@dataclass(frozen=True)
class Report:
    """`useful` of `wall` seconds since the first launch, over so many launches; `lost` says where the rest went."""

    useful: float
    wall: float
    launches: int
    lost: dict[str, float]

    @property
    def share(self) -> float:
        """The goodput, 0 to 1."""
        return self.useful / self.wall if self.wall > 0 else 0.0

    def line(self) -> str:
        """One line for people; causes below a thousandth of the wall time are left out."""
        causes = sorted(((s, cause) for cause, s in self.lost.items() if s > 1e-3 * self.wall), reverse=True)
        lost = ", ".join(f"{cause} {seconds:.1f} s" for seconds, cause in causes) or "nothing"
        launches = f"{self.launches} launches" if self.launches > 1 else "1 launch"
        return (f"goodput {self.share:.1%}: {self.useful:.1f} of {self.wall:.1f} s since the first launch; "
                f"lost: {lost} ({launches})")

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"share": self.share, "useful_seconds": self.useful, "wall_seconds": self.wall,
                "launches": self.launches, "lost_seconds": self.lost}


class Goodput:
    """The account of the run in `folder`, kept over all its launches."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        self.path, self.log, self.clock = folder / STATE, folder / LOG, clock
        self.ticks = time.monotonic                            # only for how often the file is written
        self.state = _read(self.path)
        now = clock()
        new = not self.state
        if new:
            self.state = {"began": now, "heard": now, "launches": [], "lost": {}}
        self.cause = "restart" if self.state["launches"] else "setup"
        self.lost: dict[str, float] = dict(self.state["lost"])
        self.before = dict(self.lost)                          # at the beginning of this launch
        self.begun, self.written = max(self.state["heard"], min(_modified(self.log), now)), -EVERY
        self.ready = False
        if new:
            self._write()

    def back(self, step: int, cause: str = "repeated") -> None:
        """The steps after `step` that the log still has are to be computed again; at first also: setting up is over.

        Call it before the log is cut back to `step`.
        """
        undone = sum(_seconds(line) for line in read_log(self.log) if line["step"] > step)
        self._add(cause, undone)
        if not self.ready:
            self.ready = True
            self._add(self.cause, max(0.0, self.clock() - self.begun))
            self.state["launches"].append(step)
        self._write()

    def __call__(self, trainer: Trainer, facts: Facts) -> None:
        """After each step: take over what passed between the steps, and give a sign of life."""
        for cause, seconds in trainer.aside.items():
            self.lost[cause] = self.before.get(cause, 0.0) + seconds
        if self.ticks() - self.written >= EVERY:
            self._write()

    def report(self) -> Report:
        """Where the time since the first launch went, now."""
        useful, causes = shares(read_log(self.log), self.state["launches"])
        lost = {cause: seconds for cause, seconds in {**causes, **self.lost}.items() if seconds > 0}
        wall = max(self.clock() - self.state["began"], 0.0)
        return Report(useful, wall, len(self.state["launches"]),
                      lost | {"other": max(0.0, wall - useful - sum(lost.values()))})

    def _add(self, cause: str, seconds: float) -> None:
        self.lost[cause] = self.lost.get(cause, 0.0) + seconds

    def _write(self) -> None:
        """Not synced: what a lost second is booked under is not worth a disk's 0.6 ms, but a reader sees a whole
        file."""
        self.written = self.ticks()
        self.state |= {"heard": self.clock(), "lost": self.lost}
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        with contextlib.suppress(OSError):                     # an account of a run must not end it
            temporary.write_text(json.dumps(self.state), encoding="utf-8")
            os.replace(temporary, self.path)


def shares(lines: Iterable[dict[str, Any]], launches: Iterable[int]) -> tuple[float, dict[str, float]]:
    """Useful seconds of a log's steps, and what is no use in them by cause; `launches`: the step each one began at."""
    rows = [(line["step"], _seconds(line), bool(line.get("skipped"))) for line in lines]
    applied = [seconds for _, seconds, skipped in rows if not skipped]
    if not applied:
        return 0.0, {"skipped": sum(seconds for _, seconds, _ in rows)}
    typical = median(applied)
    early = {step + i for step in launches for i in range(1, FIRST + 1)}
    lost = {"compile": 0.0, "skipped": 0.0, "stalled": 0.0}
    for step, seconds, skipped in rows:
        if skipped:
            lost["skipped"] += seconds
        elif step in early:
            lost["compile"] += max(0.0, seconds - typical)
        elif seconds > STALL * typical:
            lost["stalled"] += seconds - typical
    return sum(seconds for _, seconds, _ in rows) - sum(lost.values()), lost


def _seconds(line: dict[str, Any]) -> float:
    return float(line.get("step_seconds") or 0.0)


def _modified(path: Path) -> float:
    """When a file was last written (the log is at every step); 0 when there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    """The state on disk; empty when there is none, or none that can be believed: the account then begins anew."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return state if {"began", "heard", "launches", "lost"} <= set(state) else {}
    except (OSError, ValueError, TypeError):
        return {}
