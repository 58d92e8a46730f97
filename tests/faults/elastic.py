"""Two processes under torch's elastic agent, which starts them again when one dies, hangs or lies.

`python -m tests.faults.elastic FOLDER` runs the agent that torchrun runs, in a fork of a process that has imported
everything, and prints one JSON line a session; `test_elastic.py` judges them.
"""
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from meristem.cli.main import main
from meristem.core import faults
from meristem.train.trainer import Trainer
from tests.faults import launches

WORDS = [*launches.WORDS, "train.mesh=dp=2", "train.hang_seconds=3"]
# What happens to a run, one after the other: (rank, update of that launch from 0, signal to itself).
FAULTS = [(1, 3, signal.SIGKILL), (0, 2, signal.SIGKILL), (1, 3, signal.SIGSTOP)]


def worker(folder: str, fault: str) -> None:
    """One process of a launch: the real command line, with what shall happen to it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)              # a fork has the agent's handler
    rank, done = int(os.environ["RANK"]), Path(f"{folder}.done")
    torch.set_num_threads(1)
    count = done.stat().st_size if done.exists() else 0
    if fault == "kills" and count < len(FAULTS) and FAULTS[count][0] == rank:
        def die() -> None:
            with open(done, "a") as f:
                f.write("x")
            os.kill(os.getpid(), FAULTS[count][2])
        at_step(FAULTS[count][1], die)
    if fault == "loop" and rank == 1:
        faults.arm("step.backward:4:kill")
    if fault == "slow" and rank == 1:
        for step in range(launches.STEPS):
            at_step(step, lambda: time.sleep(0.25))
    if fault == "group":
        at_step(5, lambda: os.kill(os.getppid(), signal.SIGTERM) if rank == 0 else None)
    corpus = Path(folder).parent / "corpus"
    more = ["train.save_seconds=1e9"] if fault == "loop" else []
    status = main(["pretrain", "llama", f"data.corpus={corpus}", *WORDS, *more, "--out", folder])
    if status:
        sys.exit(status)


def at_step(count: int, act) -> None:
    """Do something when this process begins its update number `count` (from 0)."""
    update, done = Trainer.update, list[int]()

    def acting(self, micro):
        if len(done) == count:
            act()
        done.append(0)
        return update(self, micro)
    Trainer.update = acting


def session(folder: Path, fault: str, restarts: int = 5) -> None:
    """A run under the agent; its workers' words, how it ended, and how long that took."""
    begun, log = time.monotonic(), folder.parent / f"{folder.name}.err"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        config = LaunchConfig(1, 1, 2, max_restarts=restarts, start_method="fork", rdzv_backend="c10d",
                              rdzv_endpoint="localhost:0", run_id=folder.name, monitor_interval=0.05)
        try:
            elastic_launch(config, worker)(str(folder), fault)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}", file=sys.stderr, flush=True)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
    print(json.dumps({"fault": fault, "status": status, "model": launches.identity(folder),
                      "told": log.read_text(), "steps": [json.loads(line)["step"] for line in lines],
                      "seconds": round(time.monotonic() - begun, 1)}), flush=True)


def sessions(place: str, *names: str) -> None:
    """All faults, or those that are named."""
    home = Path(place)
    launches.start(home)
    busy = socket.socket()
    busy.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(busy.getsockname()[1])     # a stale address of somebody else's run
    for name in names or ["plain", "kills", "loop", "slow", "group"]:
        session(home / name, name)
    session(home / "group", "again")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sessions(*sys.argv[1:])
