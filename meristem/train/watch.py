"""Processes that hang, lag or crash again and again: seen, named, and in a run of many ended so that it can go on.

    with Watch(run / "heartbeats", limit=600.0, progress=progress) as watch:   # a thread looks on
        watch.beat(trainer.step)                                               # "this step has begun"
        hook: watch(trainer, facts)                                            # after every step

Every process keeps a file `rank-N` that it rewrites in place: its step from the main thread, a pulse from the watching
thread. A process whose pulse stops is frozen (stopped, swapped out, its machine gone); one whose pulse goes on while
its step does not is stuck, and if the others wait for it, its step is the lowest. Whoever sees no step of its own for
`limit` seconds names the culprit, writes the stacks of its threads to `stacks-N.txt`, and, if the run has several
processes, exits with status HUNG: the elastic agent (torchrun --max-restarts) then starts all of them again. One
process alone is never ended: it may be a slow disk.

`crashes` keeps failures.jsonl: a run that ended three times in the same step will end there a fourth time, and says so
instead of restarting for ever. Only monotonic clocks decide; what another machine's clock says is never compared.
"""
import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType

from meristem.core.errors import MachineError, MeristemError
from meristem.core.progress import SILENT, Progress
from meristem.train.trainer import Facts, Interrupted, Trainer

HUNG = 75                               # exit status of a process that gave up on a hung group (sysexits EX_TEMPFAIL)
SIZE = 512                              # bytes of a heartbeat file, padded, so that a rewrite is one small write
TIMES = 3                               # failures of one step that are no accident
SLOW, CHECKS = 1.5, 20                  # times the median step, in so many looks in a row
FROZEN = 0.25                           # of `limit`: a pulse that stops for so long is none
FAILURES = "failures.jsonl"
KILLED = "killed or lost"
AGENT = "TORCHELASTIC_RUN_ID"           # in the environment of a process that torchrun started


@dataclass(frozen=True)
class Beat:
    """What a process last said of itself. `step` is the one it is in, from 0; `own` its seconds a step alone."""

    rank: int
    process: int
    host: str
    step: int
    state: str                          # "setup", "step", "finished", "stopped", or the exception that ended it
    pulse: int = 0
    own: float = 0.0

    @property
    def name(self) -> str:
        """How people find it."""
        return f"rank {self.rank} (process {self.process} on {self.host})"


class Watch:
    """The heartbeat of this process, and the thread that looks at those of all `world` processes of the run."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1, *, limit: float = 600.0,
                 progress: Progress = SILENT, leave: Callable[[int], object] = os._exit):
        self.folder, self.rank, self.world, self.limit = folder, rank, world, limit
        self.progress, self.leave = progress, leave
        self.now = Beat(rank, os.getpid(), socket.gethostname(), 0, "setup")
        self.main = threading.get_ident()
        self._guard, self._over = threading.Lock(), threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}          # rank -> its pulse, and when it changed
        self._stepped, self._told, self._lags = time.monotonic(), False, dict.fromkeys(range(world), 0)
        self._file = -1

    def __enter__(self) -> "Watch":
        with contextlib.suppress(OSError):                     # a disk that refuses must not keep a run from training
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.folder / f"rank-{self.rank}", os.O_RDWR | os.O_CREAT, 0o644)
        self._write()
        if self.limit > 0:
            self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()
        if self.limit > 0:
            self._thread.join()
        spoken = isinstance(error, Interrupted | KeyboardInterrupt | MeristemError)    # it ended for a reason it names
        self._update(state="finished" if error is None else "stopped" if spoken else f"{kind.__name__}: {error}"[:120]
                     if kind else "")
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def beat(self, step: int, own: float = 0.0) -> None:
        """Step `step` has begun; the one before took this process `own` seconds without waiting for others."""
        self._stepped, self._told = time.monotonic(), False
        self._update(step=step, state="step", own=own)

    def __call__(self, trainer: Trainer, facts: Facts) -> None:
        """After each step, as a hook."""
        self.beat(trainer.step, float(facts.get("own_seconds") or facts["step_seconds"]))

    def _update(self, **facts: int | float | str) -> None:
        with self._guard:
            self.now = Beat(**{**asdict(self.now), **facts})
            self._write()

    def _write(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, json.dumps(asdict(self.now)).encode().ljust(SIZE)[:SIZE], 0)

    def _look_on(self) -> None:
        """The watching thread: a pulse, and a look at everybody, twenty times in `limit` but at most once a second."""
        while not self._over.wait(min(1.0, self.limit / 20)):
            self._update(pulse=self.now.pulse + 1)
            beats = read(self.folder) if self.world > 1 else [self.now]
            now = time.monotonic()
            for b in beats:
                if b.rank not in self._seen or self._seen[b.rank][0] != b.pulse:
                    self._seen[b.rank] = b.pulse, now
            if self.rank == 0 and self.world > 1:
                self._compare(beats)
            if self.now.state == "step" and now - self._stepped > self.limit and not self._told:
                self._told = True
                self._hung(beats, now)

    def _hung(self, beats: list[Beat], now: float) -> None:
        """Name who is hung and keep the stacks; in a run of many, leave, so that all are started again."""
        path = self.folder / f"stacks-{self.rank}.txt"
        with contextlib.suppress(OSError), open(path, "w") as f:
            faulthandler.dump_traceback(f, all_threads=True)
        self.progress.warn(f"no step for {self.limit:g} s, in step {self.now.step + 1}: {self._culprit(beats, now)}; "
                           f"this process is at {place(self.main)}, its stacks are in {path}")
        if self.world > 1:
            self._update(state="hung")
            for b in self._frozen(beats, now):
                if b.host == self.now.host:                    # else the agent waits 30 s for it before it does so
                    with contextlib.suppress(OSError):
                        os.kill(b.process, signal.SIGKILL)
            self.leave(HUNG)

    def _frozen(self, beats: list[Beat], now: float) -> list[Beat]:
        """The processes whose pulse has stopped."""
        return [b for b in beats if b.rank != self.rank and now - self._seen[b.rank][1] > FROZEN * self.limit]

    def _culprit(self, beats: list[Beat], now: float) -> str:
        """Who keeps the others waiting, in words."""
        if self.world == 1:
            return "the step goes on, or hangs"
        if frozen := self._frozen(beats, now):
            return f"{', '.join(b.name for b in frozen)} gives no sign of life (stopped, or its machine is gone)"
        if missing := sorted(set(range(self.world)) - set(self._seen)):
            return f"rank {', '.join(map(str, missing))} never began"
        last = min(b.step for b in beats)
        behind = [b for b in beats if b.step == last]
        if len(behind) < len(beats):
            return f"{', '.join(b.name for b in behind)} is still in step {last + 1}"
        return "every process is in it and alive; the stacks of each tell where"

    def _compare(self, beats: list[Beat]) -> None:
        """Warn once of a process whose own share of the step stays 1.5 times the others'."""
        own = {b.rank: b.own for b in beats if b.state == "step" and b.own > 0}
        if len(own) < 2:
            return
        for b in beats:
            others = [seconds for rank, seconds in own.items() if rank != b.rank]
            slow = b.rank in own and own[b.rank] > SLOW * median(others)
            self._lags[b.rank] = self._lags.get(b.rank, 0) + 1 if slow else 0
            if self._lags[b.rank] == CHECKS:
                self.progress.warn(f"{b.name} is slow: {own[b.rank] * 1e3:.0f} ms a step, the others "
                                   f"{median(others) * 1e3:.0f} ms; all of them wait for it")


def read(folder: Path) -> list[Beat]:
    """The heartbeats in a folder, by rank; half-written ones are left out (the next look sees them)."""
    found = []
    for path in folder.glob("rank-*"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Beat(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda b: b.rank)


def place(thread: int) -> str:
    """Where a thread is in our code, or in Python: "loader.py:68 in rows"."""
    frame = innermost = sys._current_frames().get(thread)
    while frame is not None and "meristem" not in frame.f_code.co_filename:
        frame = frame.f_back
    frame = frame or innermost
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else "an end"


def crashes(folder: Path, progress: Progress = SILENT) -> None:
    """At a launch, with the run's lock held and before any `Watch`: note how the last launch ended.

    MachineError when the last three died in the same step: kills, exceptions or hangs there are no accident. A launch
    that finished, was stopped by a signal or ended with a message of ours is no crash, nor is one that died before its
    first step. Under torchrun its agent is asked to stop too: it would start the run again, to no end.
    """
    beats, path = read(folder), folder.parent / FAILURES
    died = [b for b in beats if b.state not in ("setup", "finished", "stopped")]
    if died:
        ends = {str(b.rank): KILLED if b.state == "step" else b.state for b in died}
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": min(b.step for b in died) + 1, "ends": ends,
                                "processes": [b.name for b in died]}) + "\n")
    for b in beats:
        (folder / f"rank-{b.rank}").unlink(missing_ok=True)
    last = _lines(path)[-TIMES:]
    if len(last) == TIMES and len({line["step"] for line in last}) == 1:
        told = sorted(last[-1]["ends"].items(), key=lambda item: item[1] != KILLED)        # the others lost sight of it
        how = "; ".join(f"rank {rank}: {end}" for rank, end in told)
        text = (f"step {last[0]['step']} has ended the run {TIMES} times in a row ({how}), so it is not tried again; "
                f"mend the cause, remove {path} and run the same command")
        if AGENT in os.environ:
            progress.warn(text)                                # said before the agent ends this process
            os.kill(os.getppid(), signal.SIGTERM)
        raise MachineError(text)


def _lines(path: Path) -> list[dict]:
    """The failures on record; a torn last line is none."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        return []
