"""The sandbox: an escape battery, limits, and that nothing is run where it does not work.

The battery is skipped where bubblewrap is not installed, and only there: apt-get install bubblewrap.
"""
import itertools
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meristem.core import sandbox, seccomp
from meristem.core.errors import MachineError
from meristem.core.sandbox import Limits, run, run_many

boxed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here: apt-get install bubblewrap")
SHORT = Limits(seconds=0.5)


@boxed
def test_it_works_on_this_machine() -> None:
    assert not sandbox.trouble() and Path(sandbox.require()).is_absolute()


@boxed
def test_a_program_and_how_it_ends() -> None:
    ran = run("import sys, math\nprint(math.comb(5, 2))\nprint('oh', file=sys.stderr)\n")
    assert ran.ok and ran.code == 0 and (ran.output, ran.errors) == ("10\n", "oh\n") and 0 < ran.seconds < 3
    assert run("raise SystemExit(3)").code == 3 and run("").ok
    broken = run("assert 1 == 2, 'no'")
    assert broken.status == "failed" and broken.code == 1 and "AssertionError: no" in broken.errors
    assert run("x = '\ud800'").status == run("x = (").status == "failed"
    assert run("import os; os.write(1, b'\\xff')").output == "\ufffd"
    assert run("import os; os.abort()").code == 128 + 6


@boxed
def test_runs_are_repeatable_and_apart() -> None:
    ran = run_many(["print(hash('a'))", "open('/tmp/x', 'w').write('x'); print(hash('a'))",
                    "import os; print(os.listdir('/tmp'))"])
    assert ran[0].output == ran[1].output and ran[2].output == "['main.py']\n"


# What a program tries, as an expression or statements that print what came of it, and what must be printed.
ESCAPES = {
    "network": ("import socket\ntry:\n    socket.create_connection(('127.0.0.1', 22), 1)\n"
                "except PermissionError as e:\n    print(e.errno)", "1"),
    "host files": ("import os\nprint([p for p in ('/root', '/home', '/etc/passwd', '/var', '/proc/1', '/sys', '/run', "
                   "HERE) if os.path.exists(p)])", "[]"),
    "environment": ("import os\nprint(sorted(os.environ))",
                    "['HOME', 'LANG', 'PATH', 'PWD', 'PYTHONHASHSEED']"),
    "users": ("import os\nprint(os.getuid(), os.getgid(), os.getgroups() in ([], [1000], [65534], [1000, 65534]))\n"
              "try:\n    os.setuid(0)\nexcept OSError:\n    print('refused')", "1000 1000 True\nrefused"),
    "open files": ("import os\nfound = []\nfor n in range(64):\n    try:\n        os.fstat(n)\n"
                   "        found.append(n)\n    except OSError:\n        pass\nprint(found)", "[0, 1, 2]"),
    "writing elsewhere": ("for p in ('/x', '/usr/x', '/dev/x', '/dev/shm/x', '/tmp/main.py', '/lib/x'):\n    try:\n"
                          "        open(p, 'w').write('x')\n        print(p)\n    except OSError:\n        pass", ""),
    "killing": ("import os\nfor pid in (1, os.getppid()):\n    os.kill(pid, 9)\nprint('alive')", "alive"),
    "system calls": ("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor number in CALLS:\n"
                     "    if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:\n"
                     "        print(number)", ""),
    "namespaces": ("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
                   "print(libc.syscall(CLONE, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno() in (1, 28))", "-1 True"),
    "memory": ("try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('refused')", "refused"),
    "one file": ("import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ntry:\n    f = open('/tmp/x', 'wb')\n"
                 "    while True:\n        f.write(bytes(1 << 20))\nexcept OSError as e:\n"
                 "    print(e.errno in (27, 28))", "True"),
    "many files": ("import os\ntry:\n    for n in range(40):\n        open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))\n"
                   "except OSError as e:\n    print(e.errno, n < 33)", "28 True"),
    "open many": ("import os\nkept = []\ntry:\n    while True:\n        kept.append(os.open('/tmp/main.py', 0))\n"
                  "except OSError as e:\n    print(e.errno, len(kept) < 64)", "24 True"),
    "processes": ("import os, time\nn = 0\ntry:\n    while True:\n        if not os.fork():\n"
                  "            time.sleep(9)\n        n += 1\nexcept OSError as e:\n"
                  "    print(e.errno, 0 < n < 8)", "11 True"),
    "threads": ("import threading, time\nn = 0\ntry:\n    while True:\n"
                "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        n += 1\n"
                "except RuntimeError:\n    print(0 < n < 8)", "True"),
}


@boxed
@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_gets_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    _, _, calls = seccomp.CALLS[os.uname().machine]
    head = (f"HERE, CLONE = {str(Path(__file__))!r}, {56 if os.uname().machine == 'x86_64' else 220}\n"
            f"CALLS = {[*calls.values(), *seccomp.EVERYWHERE]}\n")
    source, wanted = ESCAPES[name]
    ran = run(head + source)
    assert ran.ok and ran.output.strip() == wanted, ran


@boxed
@pytest.mark.parametrize(("source", "status"), [
    ("while True: pass", "time"), ("import time; time.sleep(60)", "time"),
    ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", "time"),
    ("import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
     "    except OSError: pass\ntime.sleep(60)", "time"),
    ("import os, time; os.close(1); os.close(2); time.sleep(60)", "time"),
    ("while True: print('x' * 1000)", "output")])
def test_what_does_not_end_is_ended(source: str, status: str) -> None:
    start = time.monotonic()
    ran = run(source, SHORT)
    assert ran.status == status and not ran.ok and time.monotonic() - start < 3
    assert len(ran.output) <= SHORT.output


@boxed
def test_processor_time_is_limited_too() -> None:
    ran = run("while True: pass", Limits(seconds=9, cpu_seconds=1))
    assert ran.status == "time" and ran.code == 128 + 24 and ran.seconds < 8


@boxed
@pytest.mark.parametrize("after", ["", "time.sleep(60)"])
def test_no_process_outlives_its_run(after: str) -> None:
    mark = f"60.{time.monotonic_ns() % 10**9}"                 # how long it sleeps, and nobody else
    source = ("import os, time\nif not os.fork():\n    os.setsid()\n    os.close(1); os.close(2)\n"
              f"    os.execv('/usr/bin/sleep', ['sleep', '{mark}'])\ntime.sleep(0.1)\nprint('forked', flush=True)\n")
    assert run(source + after, SHORT).output == "forked\n"
    assert mark not in everybody()


def everybody() -> str:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return "\n".join(found)


@pytest.fixture
def fresh() -> Iterator[None]:
    """The check is made anew, and again after the test."""
    sandbox._check.cache_clear()
    yield
    sandbox._check.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_bubblewrap_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sandbox, "_run", lambda *a: pytest.fail("it was run"))
    with pytest.raises(MachineError, match="bwrap is not installed: apt-get install bubblewrap"):
        run("print(1)")
    with pytest.raises(MachineError, match="apt-get install"):
        run_many(["print(1)"])
    assert "apt-get install" in sandbox.trouble()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("script", [
    "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1",
    "while [ $1 != -- ]; do shift; done; shift; exec $@",      # runs the program as if there were no sandbox
    "exit 0", "exec /nowhere"])
def test_a_bubblewrap_that_does_not_work_is_not_trusted(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:    # tmp_path is closed to the user of root's runs
        os.chmod(folder, 0o755)
        fake = Path(folder) / "bwrap"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        refused()


def refused() -> None:
    """Nothing is run."""
    with pytest.raises(MachineError, match=r"not run here: bubblewrap does not work here \(.*\); it needs"):
        run("print(1)")


def test_another_system_has_no_sandbox(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    assert "Linux" in sandbox.trouble()
    with pytest.raises(MachineError, match="no table of system calls for riscv64"):
        seccomp.program("riscv64")


@pytest.mark.parametrize("machine", seccomp.CALLS)
def test_the_filter_refuses_what_it_names_and_nothing_else(machine: str) -> None:
    """By an interpreter of the four instructions used."""
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    audit, clone3, calls = seccomp.CALLS[machine]

    def answer(number: int, architecture: int) -> int:
        at, loaded = 0, 0
        for _ in range(len(program)):
            code, yes, no, k = program[at]
            if code == seccomp.RETURN:
                return k
            if code == seccomp.LOAD:
                loaded, at = {0: number, 4: architecture}[k], at + 1
            else:
                at += 1 + (yes if (loaded == k if code == seccomp.EQUAL else loaded >= k) else no)
        raise AssertionError("no answer")

    refused = {*calls.values(), *seccomp.EVERYWHERE}
    assert len(refused) == len(calls) + len(seccomp.EVERYWHERE)
    for number in itertools.chain(range(500), (seccomp.X32 + 1,)):
        wanted = (seccomp.ERRNO | seccomp.ENOSYS if number == clone3 else
                  seccomp.ERRNO | seccomp.EPERM if number in refused or (number >= seccomp.X32 and machine == "x86_64")
                  else seccomp.ALLOW)
        assert answer(number, audit) == wanted
    assert answer(0, audit ^ 1) == seccomp.KILL
