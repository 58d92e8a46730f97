"""Checkpoints that are whole or absent: safetensors and JSON, committed by rename, believed only after verification.

    with Checkpoints(run / "checkpoints", keep=2) as checkpoints:      # holds the run's lock
        found = checkpoints.newest()                                   # (step, tensors, meta), or None in a new run
        checkpoints.save(step, {"model": {...}, "optim": {...}}, {"seed": 0})
        checkpoints.check()                                            # every step: reports what the writer thread met

`step-000123/` holds one safetensors file a key (of many processes, one each: `train.pieces`), state.json and
MANIFEST.json (`core.files.committed`). A save copies the tensors into buffers that are kept, and a thread writes them
while training goes on. No file is ordered by its date, no pointer says which is the latest, nothing is pickled, and no
tensor's name ever becomes a path.
docs/reliability.md lists each fault and the test that injects it.
"""
import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from safetensors import SafetensorError

from meristem.core.errors import MachineError, MeristemError, NothingLeftError, RequestError
from meristem.core.faults import point
from meristem.core.files import committed, read_json, verify
from meristem.core.progress import SILENT, Progress
from meristem.train.pieces import Layout, Pieces, Stored, Tensors, collect, sweep

SCHEMA = 1
STATE = "state.json"
FAILURES = 3                            # failed saves in a row that stop the run: more would only lose more work
NAME = re.compile(r"step-(\d{1,18})")
Found = tuple[int, Tensors, dict[str, Any]]


class Good(NamedTuple):
    """A checkpoint that verifies: its step, its folder, and what it says of itself (state.json)."""

    step: int
    path: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder; the newest `keep` stay, and one each `permanent` steps for good."""

    def __init__(self, folder: Path, keep: int = 2, progress: Progress = SILENT, permanent: int = 0,
                 processes: int = 1):
        if keep < 1:
            raise RequestError(f"train.keep is {keep}; at least one checkpoint must be kept")
        self.folder, self.keep, self.progress, self.permanent = folder, keep, progress, permanent
        self.processes = processes                             # that write their pieces (train.pieces)
        self.failures = 0                                      # saves that failed since the last good one
        self._saves = 0                                        # in this launch
        self._pieces = Pieces()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._lock = -1

    def __enter__(self) -> "Checkpoints":
        self.lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def lock(self) -> None:
        """Take the folder for this process until `close`; RequestError names the process that has it."""
        import fcntl
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MachineError(f"could not use {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise RequestError(f"{self.folder.parent} is being trained by {holder}; "
                               "wait for it, stop it, or choose another --out") from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = handle

    def close(self) -> None:
        """Finish the save under way and give the folder back."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            if self._lock >= 0:
                os.close(self._lock)                           # closing releases the flock
                self._lock = -1

    def save(self, step: int, tensors: Tensors, meta: dict[str, Any], behind: Sequence[int] = (),
             layout: Layout | None = None) -> None:
        """Copy `tensors` ({file: {name: tensor}}) now, write them behind the caller's back; `meta` is any JSON.

        `behind`: steps to whose past the guard may have to go back; a checkpoint there is retained too. `layout`:
        where the tensors lie in the whole ones, when other processes save theirs.

        Returns after the copy. A disk that refuses is reported by `check` at a later step and training goes on; after
        three refusals in a row MachineError. Older checkpoints stay until the new one is committed.
        """
        self.wait()                                            # the buffers are read until the last save is written
        self._saves += 1
        aliases = self._pieces.copy(tensors)
        state = json.dumps({"schema": SCHEMA, "step": step, "processes": self.processes, "aliases": aliases,
                            "meta": meta})
        self._pending = step, self._writer.submit(self._write, step, state, behind, layout, aliases)

    def check(self) -> None:
        """Report a finished save's failure: a warning, or MachineError from the third in a row on. Costs nothing
        else."""
        if self._pending is not None and self._pending[1].done():
            self.wait()

    def wait(self) -> None:
        """Block until the save under way, if any, is committed or has failed; reports as `check` does."""
        if self._pending is None:
            return
        step, future = self._pending
        error, self._pending = future.exception(), None
        if error is None:
            self.failures = 0
        elif not isinstance(error, (OSError, SafetensorError, MachineError)):
            raise error
        else:
            self.failures += 1
            why = error.__cause__ or error                     # the disk's own words
            if self.failures >= FAILURES:
                raise MachineError(f"{self.failures} checkpoints in a row could not be written ({why}); "
                                   f"training stopped at step {step}, older checkpoints are intact: "
                                   "free some space and run the same command again") from error
            self.progress.warn(f"checkpoint of step {step} could not be written ({why}); "
                               "training goes on, older ones are intact")

    def newest(self, last: int | None = None) -> Found | None:
        """The newest checkpoint that verifies, as (step, tensors, meta); None when the run has none yet. See `find`."""
        found = self.find(last)
        if found is None:
            return None
        stored = Stored(found.path, found.state)
        return found.step, {key: {name: stored.read(key, name) for name in stored.names(key)}
                            for key in stored.boxes}, found.state["meta"]

    def find(self, last: int | None = None) -> "Good | None":
        """Where the newest checkpoint that verifies lies; None when the run has none yet.

        `last`: none of a later step than this.

        Damaged ones are renamed `bad-step-N` and the reason is reported. NothingLeftError when there are only damaged
        ones: a run never starts again from nothing by itself.
        """
        self._sweep()
        for step, path in sorted(self._steps(), reverse=True):
            if last is not None and step > last:
                continue
            reason = verify(path)
            if not reason:
                try:
                    state = _state(path, step)
                    Stored(path, state)                        # every file says what it should
                    return Good(step, path, state)
                except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
                    reason = f"{error}"
            self._set_aside(path, reason)
        bad = sorted(p.name for p in self.folder.glob("bad-step-*"))
        if bad:
            raise NothingLeftError(f"every checkpoint in {self.folder} is damaged ({', '.join(bad)}); "
                                   "restore one, or start over from step 0 with --fresh")
        return None

    def forget(self, stale: Callable[[int, dict[str, Any]], bool]) -> None:
        """Delete the checkpoints whose step and meta are `stale`; one that cannot be read is left to `newest`."""
        self.wait()
        for step, path in self._steps():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, MeristemError):
                if stale(step, read_json(path / STATE)["meta"]):
                    doomed = path.with_name(f".tmp-old-{path.name}")
                    os.rename(path, doomed)
                    shutil.rmtree(doomed, ignore_errors=True)

    def discard(self) -> None:
        """Delete every checkpoint, damaged ones too: what `--fresh` does."""
        self._sweep()
        for path in [p for _, p in self._steps()] + [p for p in self.folder.glob("bad-step-*") if not p.is_symlink()]:
            shutil.rmtree(path, ignore_errors=True)

    def _steps(self) -> list[tuple[int, Path]]:
        """(step, folder) of everything that is named like a checkpoint; links and foreign things are not ours to
        touch."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [(int(m[1]), p) for p in found if (m := NAME.fullmatch(p.name)) and p.is_dir() and not p.is_symlink()]

    def _sweep(self) -> None:
        """Remove what a killed writer left; only the holder of the lock comes here."""
        sweep(self.folder)
        for path in self.folder.glob(".tmp-*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _set_aside(self, path: Path, reason: str) -> None:
        target, copy = path.with_name(f"bad-{path.name}"), 1
        while target.exists():
            copy += 1
            target = path.with_name(f"bad-{path.name}.{copy}")
        os.rename(path, target)
        self.progress.warn(f"{path.name} is damaged and was set aside as {target.name}: {reason}; an older one is used")

    def _write(self, step: int, state: str, behind: Sequence[int], layout: Layout | None,
               aliases: dict[str, dict[str, str]]) -> None:
        """Runs in the writer thread: commit one checkpoint, then prune."""
        point("ckpt.begin")
        with committed(self.folder / f"step-{step:06d}", point=lambda name: point(f"ckpt.{name}")) as temporary:
            self._pieces.write(temporary, None if self.processes == 1 else 0, layout, aliases)
            collect(self.folder, self._saves, self.processes, temporary)
            (temporary / STATE).write_text(state, encoding="utf-8")
        with contextlib.suppress(OSError):                     # the new one is safe; what stays is pruned next time
            for path in self._superfluous(behind):
                doomed = path.with_name(f".tmp-old-{path.name}")   # half deleted, it must not look like a damaged one
                os.rename(path, doomed)
                point("ckpt.prune")
                shutil.rmtree(doomed, ignore_errors=True)

    def _superfluous(self, behind: Sequence[int]) -> list[Path]:
        """What the policy does not retain, oldest first."""
        steps = sorted(self._steps())
        kept = {step for step, _ in steps[-self.keep:]}
        for last in behind:
            kept.update([step for step, _ in steps if step <= last][-1:])
        if behind:                                             # grows old enough to take the place of the one before
            kept.update([step for step, _ in steps if step > max(behind)][:1])
        if self.permanent:
            kept.update(step for step, _ in steps if step and step % self.permanent == 0)
        return [path for step, path in steps if step not in kept]


def _state(path: Path, step: int) -> dict[str, Any]:
    """What a verified checkpoint says of itself; ValueError where that is of another step, MachineError where it is of
    another version of meristem: that is no damage, so it is not set aside."""
    state: dict[str, Any] = read_json(path / STATE)
    if state["schema"] != SCHEMA:
        raise MachineError(f"{path} has schema {state['schema']}, this version of meristem reads {SCHEMA}; "
                           "use the version that wrote it, or start over from step 0 with --fresh")
    if state["step"] != step:
        raise ValueError(f"it holds step {state['step']}")
    return state
