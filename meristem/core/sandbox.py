"""Run Python that nobody has read: HumanEval answers, reward functions, an agent's tools.

    from meristem.core import sandbox
    ran = sandbox.run("print(sum(range(10)))")
    assert ran.ok and ran.output == "45\\n"

bubblewrap gives the program namespaces of its own (no network, no other processes, no host files but /usr, read
only), no capabilities, another user, an empty environment and 32 MiB of scratch in /tmp; `seccomp.py` refuses the
system calls that have broken out of such boxes; limits bound memory, processor and wall time, processes, files and
output. One run takes about 20 ms more than Python itself. Nothing is ever run without it: where it does not work,
`require()` says why and how to mend it, and so does `meristem doctor`.

What it is not: a virtual machine. A hole in the kernel's own namespaces would be a hole here. The memory limit is for
each process, so a run may hold `memory` times `processes`. A program can always lie about its own result.
"""
import functools
import math
import os
import platform
import re
import select
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meristem.core import machine, seccomp
from meristem.core.errors import MachineError

INSTALL = "apt-get install bubblewrap (0.8 or newer)"
USER = 61184                            # of runs started by root, whose own processes no limit binds; owns no file
PROGRAM = "/tmp/main.py"
DRAIN = 5.0                             # seconds in which the kernel must have ended all processes of a killed run


@dataclass(frozen=True)
class Limits:
    """What one run may use; the defaults are those of a unit test."""

    seconds: float = 3.0                # wall clock
    cpu_seconds: float = 2.0            # of each process, rounded up
    memory: int = 256 << 20             # bytes of address space of each process
    processes: int = 8                  # and threads, all together
    disk: int = 32 << 20                # bytes in /tmp, and of one file
    files: int = 64                     # open at once
    output: int = 64 << 10              # bytes of standard output and error together


@dataclass(frozen=True)
class Ran:
    """How a run ended: "ok" is exit status 0; "time" and "output" are limits, "failed" everything else."""

    status: Literal["ok", "failed", "time", "output"]
    code: int                           # exit status, 128 + signal for one that was killed
    output: str                         # standard output, cut at the limit
    errors: str                         # standard error
    seconds: float

    @property
    def ok(self) -> bool:
        """The program ended by itself with status 0."""
        return self.status == "ok"


def run(source: str, limits: Limits = Limits()) -> Ran:                        # noqa: B008, it is frozen
    """Run a Python program; what it does wrong is in the result. MachineError where there is no working sandbox."""
    return _run(source, limits, require())


def run_many(sources: Sequence[str], limits: Limits = Limits()) -> list[Ran]:  # noqa: B008
    """`run` of each, as many at once as there are cores; each in a sandbox of its own."""
    interpreter = require()
    with ThreadPoolExecutor(machine.threads()) as pool:
        return list(pool.map(lambda source: _run(source, limits, interpreter), sources))


def require() -> str:
    """The interpreter that works in the sandbox; MachineError says in one line why there is none. Checked once."""
    interpreter, trouble = _check()
    if trouble:
        raise MachineError(f"untrusted code is not run here: {trouble}")
    return interpreter


def trouble() -> str:
    """Why there is no working sandbox on this machine; "" when there is one."""
    return _check()[1]


@functools.cache
def _check() -> tuple[str, str]:
    """(interpreter, why not): a real run whose limits are read back from inside."""
    if sys.platform != "linux":
        return "", f"the sandbox is Linux's bubblewrap and this is {platform.system()}; use a Linux machine"
    if missing := [tool for tool in ("bwrap", "prlimit") if not shutil.which(tool)]:
        package = INSTALL if missing[0] == "bwrap" else "apt-get install util-linux"
        return "", f"{missing[0]} is not installed: {package}"
    limits, reasons = Limits(), []
    probe = ("import os, resource as r\n"
             "print([r.getrlimit(n)[1] for n in (r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)],"
             " os.listdir('/tmp'), dict(os.environ).get('HOME'), os.path.exists('/proc'))")
    wanted = f"{[limits.memory, limits.processes, limits.files, limits.disk]} ['main.py'] /tmp False\n"
    for interpreter in dict.fromkeys((os.path.realpath(sys._base_executable), "/usr/bin/python3")):    # type: ignore[attr-defined]
        try:
            ran = _run(probe, limits, interpreter)
        except MachineError as error:
            reasons.append(str(error))
        else:
            if ran.ok and ran.output == wanted:
                return interpreter, ""
            reasons.append((ran.errors or ran.output or ran.status).strip().split("\n")[-1])
    return "", (f"bubblewrap does not work here ({'; '.join(dict.fromkeys(reasons))}); it needs {INSTALL}, user "
                "namespaces (sysctl kernel.unprivileged_userns_clone=1, or a container that allows them) and a Python "
                "that every user may read")


def _command(interpreter: str, limits: Limits, source: int, rules: int, status: int) -> list[str]:
    """The command line; the three numbers are open files: the program, the filter, where bwrap reports."""
    words = [str(shutil.which("bwrap")), "--unshare-all", "--unshare-user", "--disable-userns",
             "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--die-with-parent", "--new-session",
             "--cap-drop", "ALL", "--clearenv", "--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64", "/bin"):
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    prefix = str(Path(interpreter).parent.parent)
    if prefix != "/usr":
        words += ["--ro-bind", prefix, prefix]
    # /dev and / are file systems in memory: no bytes, and read only once they are filled
    words += ["--size", "4096", "--tmpfs", "/dev", "--dev-bind", "/dev/null", "/dev/null",
              "--dev-bind", "/dev/urandom", "/dev/urandom", "--remount-ro", "/dev",
              "--size", str(limits.disk), "--tmpfs", "/tmp", "--ro-bind-data", str(source), PROGRAM,
              "--remount-ro", "/", "--chdir", "/tmp",
              "--seccomp", str(rules), "--json-status-fd", str(status)]
    for name, value in (("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("PATH", "/usr/bin"), ("PYTHONHASHSEED", "0")):
        words += ["--setenv", name, value]
    processor = math.ceil(limits.cpu_seconds)
    return [*words, "--", str(shutil.which("prlimit")), f"--as={limits.memory}", f"--cpu={processor}:{processor + 1}",
            f"--nproc={limits.processes}", f"--nofile={limits.files}", f"--fsize={limits.disk}", "--core=0", "--",
            interpreter, "-s", "-S", "-P", "-B", "-X", "utf8", PROGRAM]


def _run(source: str, limits: Limits, interpreter: str) -> Ran:
    started = time.monotonic()
    with ExitStack() as stack:
        def file(content: bytes) -> int:
            memory = stack.enter_context(open(os.memfd_create("sandbox"), "w+b"))
            memory.write(content)
            memory.flush()
            memory.seek(0)
            return memory.fileno()

        reading, writing = os.pipe()
        reports, writes = (stack.enter_context(open(end, mode)) for end, mode in ((reading, "rb"), (writing, "wb")))
        given = (file(source.encode("utf-8", "surrogatepass")), file(seccomp.program()), writing)
        command = _command(interpreter, limits, *given)
        user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            process = stack.enter_context(subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=given,
                env={}, **user))
        except OSError as error:
            raise MachineError(f"{command[0]} does not start: {error.strerror}") from None
        stack.callback(process.kill)                           # also when we are interrupted
        writes.close()
        with _all_ended(reports.readline()):
            output, errors, limit = _read(process, started + limits.seconds, limits.output)
        code = process.wait()                                  # bwrap's, which follows the first process of its box
        ended = limit or b"exit-code" in reports.read()
    if not ended:                                              # bwrap failed before there was a program
        raise MachineError(errors.strip().split("\n")[-1] or f"bwrap ended with status {code}")
    code = 128 - code if code < 0 else code
    processor = code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL)
    return Ran(limit or ("ok" if code == 0 else "time" if processor else "failed"), code, output, errors,
               time.monotonic() - started)


def _read(process: subprocess.Popen[bytes], deadline: float,
          most: int) -> tuple[str, str, Literal["time", "output"] | None]:
    """Standard output and error until both are closed, and which limit was reached before that."""
    assert process.stdout and process.stderr
    texts: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    limit: Literal["time", "output"] | None = None
    with selectors.DefaultSelector() as selector:
        for number in texts:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map() and not limit:
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            limit = None if ready else "time"
            for key, _ in ready:
                piece = os.read(key.fd, 1 << 16)
                texts[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
            if sum(map(len, texts.values())) > most:
                limit = "output"
    if not limit:                                              # both are closed, but is it at an end?
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            limit = "time"
    output, errors = (bytes(text[:most]).decode("utf-8", "replace") for text in texts.values())
    return output, errors, limit


@contextmanager
def _all_ended(report: bytes) -> Iterator[None]:
    """At the end of the block kill the first process inside, which bwrap reports, and wait until all are gone."""
    found = re.search(rb'"child-pid": *(\d+)', report)
    try:
        first = os.pidfd_open(int(found[1])) if found else -1  # not a number that another process may get
    except ProcessLookupError:
        first = -1
    try:
        yield
    finally:
        if first >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], DRAIN)              # ready when the kernel has ended every process inside
            os.close(first)
