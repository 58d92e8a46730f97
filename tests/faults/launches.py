"""Whole runs that break on purpose: the real command line in a fork of a process that has imported everything.

`python tests/faults/launches.py FOLDER` makes a corpus, lets every fault happen to a run of a tiny model and prints one
JSON line a fault; `test_runs.py` judges them. A command's standard error and exit status are the real ones.
"""
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo

from meristem.cli.main import main
from meristem.core import faults
from meristem.train import run as runs

STEPS = 14
WORDS = ["model.dim=16", "model.layers=1", "model.heads=2", "model.groups=2", "model.hidden=32", "train.batch=4",
         "train.context=32", f"train.steps={STEPS}", "train.warmup=2", "train.compile=false", "data.codec.name=char",
         "train.validate_every=0", "train.sample_every=0", "train.save_seconds=0"]


class Command:
    """`meristem WORDS` in a fork; `before` runs in it first."""

    def __init__(self, *words: str, before: Callable[[], object] = lambda: None):
        self.out, into = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(into)
            return
        os.setsid()                                            # a group of its own, as a scheduler starts it
        os.dup2(into, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        try:
            before()
            os._exit(main(list(words)))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)

    def end(self) -> dict:
        """Its exit status (minus the signal that ended it) and what it said."""
        with os.fdopen(self.out, "rb") as f:
            told = f.read().decode()
        return {"status": os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), "told": told}

    def running(self) -> bool:
        """Whether it has not ended yet (and is not collected)."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def train(folder: Path, *more: str, before: Callable[[], object] = lambda: None) -> Command:
    """A launch of the run in `folder`."""
    corpus = f"data.corpus={folder.parent / 'corpus'}"
    return Command("pretrain", "llama", corpus, *WORDS, *more, "--out", str(folder), before=before)


def steps_of(folder: Path) -> int:
    """How many lines its log has."""
    with contextlib.suppress(OSError):
        return (folder / "log.jsonl").read_bytes().count(b"\n")
    return 0


def until(command: Command, true: Callable[[], bool]) -> None:
    """Wait until it has come so far, or has ended."""
    while command.running() and not true():
        time.sleep(0.002)


def identity(folder: Path) -> str | None:
    """The hash of the model that a finished run has made."""
    with contextlib.suppress(OSError):
        return json.loads((folder / "result.json").read_text())["model"]
    return None


def report(fault: str, folder: Path, *ends: dict, **more: object) -> None:
    """One JSON line."""
    print(json.dumps({"fault": fault, "ends": ends, "model": identity(folder), **more}), flush=True)


def storm(home: Path) -> None:
    """kill -9 at random moments, six times."""
    folder, rng, ends, begun = home / "storm", random.Random(1), [], []
    for _ in range(6):
        at = steps_of(folder)
        command = train(folder)
        goal = at + rng.randint(0, 2)
        until(command, lambda goal=goal: steps_of(folder) > goal)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(command.pid, signal.SIGKILL)
        ends.append(command.end())
        (folder / "failures.jsonl").unlink(missing_ok=True)
        begun.append(steps_of(folder))
    report("storm", folder, *ends, train(folder).end(), begun=begun)


def signals(home: Path) -> None:
    """SIGTERM to the whole group; two SIGTERM; two SIGINT 50 ms apart."""
    for fault, sent in {"group": [signal.SIGTERM], "terms": [signal.SIGTERM, signal.SIGTERM],
                        "ints": [signal.SIGINT, signal.SIGINT]}.items():
        folder = home / fault
        slow = (lambda: slowly(0.15)) if fault == "ints" else lambda: None
        command = train(folder, before=slow)
        until(command, lambda folder=folder: steps_of(folder) >= 4)
        for number in sent:
            os.killpg(command.pid, number)
            time.sleep(0.05)
        first, at = command.end(), steps_of(folder)
        report(fault, folder, first, train(folder).end(), at=at)


def slowly(seconds: float) -> None:
    """Each file of a checkpoint takes so long to write: a signal then comes inside a save."""
    real = faults.point

    def point(name: str) -> None:
        if name == "tensors":
            time.sleep(seconds)
        real(f"ckpt.{name}")
    sys.modules["meristem.train.pieces"].point = lambda name: point(name.removeprefix("ckpt."))


def memory(home: Path) -> None:
    """A limit on memory (RLIMIT_AS) that the first forward pass hits; then the same without it."""
    folder = home / "memory"
    more = ["train.batch=512", "train.context=256", "train.steps=1"]

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        here = pages * resource.getpagesize() + 200_000_000
        resource.setrlimit(resource.RLIMIT_AS, (here, here))
    report("memory", folder, train(folder, *more, before=limit).end())


def loop(home: Path) -> None:
    """A batch that kills the process each time; then somebody has mended it."""
    folder = home / "loop"
    ends = [train(folder, "train.save_seconds=1e9", before=lambda: faults.arm("step.backward:4:kill")).end()
            for _ in range(4)]
    (folder / "failures.jsonl").unlink()
    report("loop", folder, *ends, train(folder, "train.save_seconds=1e9").end())


def twice(home: Path) -> None:
    """A second trainer while the first is at work."""
    folder = home / "twice"
    first = train(folder, before=lambda: slowly(0.05))
    until(first, lambda: steps_of(folder) >= 2)
    second = train(folder)
    report("twice", folder, second.end(), first.end(), process=first.pid)


def damaged(home: Path) -> None:
    """Every checkpoint has a flipped bit, then --fresh; a tokenizer with one; another corpus, config, dtype."""
    folder = Path(shutil.copytree(home / "whole", home / "damaged"))
    (folder / "result.json").unlink()
    kept = home / "corpus-kept"
    for path in (folder / "checkpoints").rglob("optim.safetensors"):
        flip(path)
    ends = [train(folder).end(), train(folder).end(), train(folder, "--fresh").end()]
    report("damaged", folder, *ends)
    shutil.copytree(home / "corpus", kept)
    (folder / "result.json").unlink()
    for path in (home / "corpus" / "codecs").rglob("tokenizer.json"):
        flip(path)
    report("tokenizer", folder, train(folder).end())
    shutil.rmtree(home / "corpus")
    shutil.copytree(kept, home / "corpus")
    flip(home / "corpus" / "train.jsonl")
    report("corpus", folder, train(folder).end())
    shutil.rmtree(home / "corpus")
    Command("curate", str(home / "other"), "--out", str(home / "corpus")).end()
    report("data", folder, train(folder).end())
    shutil.rmtree(home / "corpus")
    shutil.copytree(kept, home / "corpus")
    report("config", folder, train(folder, "train.lr=0.1").end(), train(folder, "train.dtype=float16").end(),
           train(home / "new", "train.dtype=float16").end())


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def drift(home: Path) -> None:
    """Other threads than the run began with; then allowed."""
    folder = Path(shutil.copytree(home / "whole", home / "drift"))
    (folder / "result.json").unlink()

    def threads() -> None:
        os.environ["OMP_NUM_THREADS"] = "2"
    ends = [train(folder, *more, before=threads).end() for more in ((), ("--allow-drift",))]
    report("drift", folder, *ends, drift=json.loads((folder / "manifest.json").read_text())["drift"])


def wrong(home: Path) -> None:
    """One bit of one gradient's mantissa is flipped in step 6; everything goes on, and `replay` finds it."""
    folder = home / "wrong"

    def flipping() -> None:
        update = runs.Trainer.update

        def flipped(self: runs.Trainer, micro: list) -> dict:
            def point(name: str) -> None:
                if name == "step.backward" and self.step == 5:
                    grad = self.optim.params[-1].grad
                    grad.view(torch.int32).view(-1)[grad.abs().argmax()] ^= 1 << 20
            sys.modules["meristem.train.trainer"].point = point
            return update(self, micro)
        runs.Trainer.update = flipped
    ends = [train(folder, "train.keep=99", before=flipping).end()]
    report("wrong", folder, *ends, *[Command("replay", str(folder), "--step", str(step)).end() for step in (4, 6, 9)])


def start(home: Path) -> None:
    """A corpus, another one, and the unbroken run."""
    for name in ("text", "other"):
        rng = random.Random(name)
        words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(60)]
        (home / name).mkdir()
        for i in range(12):
            lines = [" ".join(rng.choices(words, k=8)) for _ in range(40)]
            (home / name / f"{i}.txt").write_text("\n".join(lines))
    Command("curate", str(home / "text"), "--out", str(home / "corpus")).end()
    report("", home / "whole", train(home / "whole").end())


def every(place: str) -> None:
    """All faults, one after the other."""
    for work in (start, storm, signals, memory, loop, twice, drift, wrong, damaged):
        work(Path(place))


if __name__ == "__main__":
    torch.set_num_threads(1)
    every(sys.argv[1])
