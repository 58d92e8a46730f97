"""One interpreter that has imported torch and the library, and forks a process for every request.

    killed(tmp_path / "run.json", tmp_path / "run", "step.end:4:kill")         # -9: the status of a run that was killed
    started("tests.faults.harness:main", "saves", str(folder), out=path)       # what it prints is in `path`

A fresh interpreter spends 3 s of the processor on imports, and the suite needs about 60 of them; a fork takes 30 ms.
Each pytest process has its own starter, begun when it is first asked. It only imports: threads, as autograd begins
them, would not survive a fork. What it forks is as real as any process: its signals, exit statuses and files are.
"""
import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIMIT = 400                             # seconds that a process may take


@functools.cache
def starter() -> "subprocess.Popen[str]":
    """This process's starter."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    made = subprocess.Popen([sys.executable, "-m", "tests.starter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            cwd=ROOT, env=env, text=True)

    def stop() -> None:
        with made:                                             # closes both pipes, at which it ends
            pass
    atexit.register(stop)
    return made


def started(function: str, *args: Any, processes: int = 1, fault: str = "", out: Path | None = None,
            cwd: Path = ROOT, env: dict[str, str] | None = None) -> list[int]:
    """The exit statuses (minus the signal) of processes that call `module:function` with JSON values.

    Of several, each is given its number first, and all are killed when one of them fails. `fault` is planned as
    MERISTEM_FAULT would be; standard output goes to `out`.
    """
    asked = {"function": function, "args": args, "processes": processes, "fault": fault, "cwd": str(cwd),
             "out": str(out or os.devnull), "env": env or {}}
    made = starter()
    assert made.stdin and made.stdout
    made.stdin.write(json.dumps(asked) + "\n")
    made.stdin.flush()
    answer = made.stdout.readline()
    assert answer, "the starter has ended; its standard error says why"
    return json.loads(answer)


def killed(recipe: Path, folder: Path, fault: str) -> int:
    """The status of a training run of `recipe` in `folder` that meets `fault`."""
    return started("tests.starter:trained", str(recipe), str(folder), fault=fault)[0]


def trained(recipe: str, folder: str) -> None:
    """Train a recipe's file in a folder."""
    from meristem.recipes import resolve
    from meristem.train.run import pretrain
    pretrain(resolve(recipe)[0], Path(folder))


def serve() -> None:
    """Fork what is asked for, a line of standard input each, and answer with a line of statuses."""
    import torch
    import torch._dynamo
    import torch.distributed.tensor  # noqa: F401 - all of them so that no fork pays for it

    import meristem.api
    import meristem.cli.main
    import meristem.train.many
    import meristem.train.run  # noqa: F401
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        ranks = {begin(asked, rank): rank for rank in range(asked["processes"])}
        statuses = [0] * len(ranks)
        while ranks:
            pid, status = os.wait()
            statuses[ranks.pop(pid)] = code = os.waitstatus_to_exitcode(status)
            for other in ranks if code else ():
                os.kill(other, signal.SIGKILL)
        print(json.dumps(statuses), flush=True)


def begin(asked: dict[str, Any], rank: int) -> int:
    """Fork one process of a request; its id."""
    module, _, name = asked["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if pid := os.fork():
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        signal.alarm(LIMIT)
        from meristem.core import faults
        faults.arm(asked["fault"])
        function(*([rank] if asked["processes"] > 1 else []), *asked["args"])
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    serve()
