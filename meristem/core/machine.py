"""What this machine is and what it can do: threads, memory, a compiler, and the rates it was measured at.

`measured()` runs each measurement once (about two seconds) and keeps the answer in the user's cache folder; plans and
the "share of peak" of a training run are judged by it. fp16 is never trained in: on CPUs it runs at 1 GFLOP/s, a 900th
of bf16. `python -m meristem.core.machine` prints what was found.
"""
import ctypes
import dataclasses
import functools
import json
import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from meristem.core.errors import MeristemError, RequestError
from meristem.core.files import digest_bytes, write_json

if TYPE_CHECKING:
    import torch

SIZE = 1024                             # rows of the measured matrix product: rates are flat from 512 to 2,048
LARGE = 8192                            # of the matrices that fill a GPU
SWEEP = 1 << 28                         # bytes read per bandwidth sample: far beyond any last-level cache's share
WINDOW = 0.4                            # seconds of each rate, its first samples are the warm-up
FASTEST = 0.1                           # a peak is what the fastest tenth of the samples reach: neighbours only slow
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc malloc.h


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured rates of a machine: FLOP/s of a matrix product, bytes/s of a long read, bytes of memory."""

    matmul_bf16: float
    matmul_fp32: float
    read_bandwidth: float
    cores: int
    memory: int
    compiler: bool

    @property
    def best_dtype(self) -> Literal["bfloat16", "float32"]:
        """"bfloat16" where the processor accelerates it (AVX512-BF16, AMX), else "float32"."""
        return "bfloat16" if self.matmul_bf16 > self.matmul_fp32 else "float32"

    @property
    def peak(self) -> float:
        """FLOP/s of the best type: what a "share of peak" is a share of."""
        return max(self.matmul_bf16, self.matmul_fp32)


def threads() -> int:
    """How many threads arithmetic may use: OMP_NUM_THREADS if set, else the cores this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return max(1, min(len(os.sched_getaffinity(0)), _quota())) if sys.platform == "linux" else os.cpu_count() or 1


def set_threads(count: int | None = None) -> int:
    """Pin torch to `count` threads (default `threads()`) and return it: another count changes the bits of a sum."""
    import torch
    torch.set_num_threads(count or threads())
    return torch.get_num_threads()


def device() -> "torch.device":
    """Where a run computes: this process's GPU (LOCAL_RANK of torchrun) where torch finds one, else the CPU."""
    import torch
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(place)
    return place


def accelerator() -> dict[str, str]:
    """{"device": name} of the GPU that a run computes on; {} on the CPU."""
    import torch
    place = device()
    return {} if place.type == "cpu" else {"device": torch.cuda.get_device_name(place)}


def memory() -> int:
    """Bytes of memory this process may use: the machine's, or its container's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def peak_rss() -> int:
    """The most memory this process ever had resident, in bytes."""
    import resource
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def has_compiler() -> bool:
    """Whether torch.compile can build CPU kernels: a C++ compiler and Python.h are both found."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return header.is_file() and any(shutil.which(c) for c in (os.environ.get("CXX") or "g++", "g++", "c++", "clang++"))


def tune_allocator() -> bool:
    """Stop glibc from handing big freed blocks back to the system; True where that was done (10 to 25 % of a step)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):               # macOS, musl, Windows: nothing to tune
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))


def share_arenas(count: int = 2) -> bool:
    """Let all threads share a few of glibc's arenas: in a server each would keep what it freed in one of its own."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, count))
    except (AttributeError, OSError, TypeError):
        return False


def identity() -> dict[str, Any]:
    """What a run's manifest says about where it ran; imports torch's metadata only, so it is quick."""
    return {"meristem": _version("meristem"), "code": code(), "torch": _version("torch"),
            "python": platform.python_version(), "platform": platform.platform(), "cpu": cpu_name(),
            "cores": os.cpu_count() or 1, "threads": threads(), "memory": memory(), "compiler": has_compiler()}


@functools.cache
def code() -> str:
    """Digest of meristem's own sources (16 hex digits): a version number does not change when a line does."""
    root = Path(__file__).parents[1]
    files = sorted(p for kind in ("*.py", "*.cpp") for p in root.rglob(kind))
    return digest_bytes(*(part for p in files for part in (p.relative_to(root).as_posix(), p.read_bytes())))[:16]


@functools.cache
def cpu_name() -> str:
    """The processor's name as it gives it: "AMD EPYC 9555 64-Core Processor"."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("model name", "Model\t")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measured(fresh: bool = False) -> Machine:
    """This machine's rates, from the cache folder or measured now (`fresh=True` measures again)."""
    key = digest_bytes(cpu_name(), str(threads()), str(memory()), _version("torch"), *accelerator().values())[:16]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "meristem" / f"machine-{key}.json"
    if not fresh:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return dataclasses.replace(Machine(**kept), compiler=has_compiler())
        except (OSError, ValueError, TypeError):
            pass                                               # absent, torn or of an older version: measure
    found = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(found))
    except (OSError, MeristemError):
        pass                                                   # a read-only home costs two seconds next time, no more
    return found


def measure() -> Machine:
    """Measure now, keeping nothing: the fastest tenth of the samples of each window, on `threads()` threads.

    The medians of 7 samples that stood here once gave a quarter of the peak on a machine still writing out a fresh
    installation, and runs at "136 % of peak".
    """
    import torch
    before, place = torch.get_num_threads(), device()
    size = SIZE if place.type == "cpu" else LARGE
    set_threads()
    try:
        rates = {}
        for dtype in (torch.bfloat16, torch.float32):
            a, b = (torch.randn(size, size).to(place, dtype) for _ in range(2))
            out = torch.empty(size, size, dtype=dtype, device=place)
            rates[dtype] = 2 * size**3 / _seconds(functools.partial(torch.mm, a, b, out=out))
        block = torch.ones(SWEEP // 4, device=place)
        bandwidth = SWEEP / _seconds(block.sum)
    finally:
        torch.set_num_threads(before)
    return Machine(matmul_bf16=rates[torch.bfloat16], matmul_fp32=rates[torch.float32], read_bandwidth=bandwidth,
                   cores=os.cpu_count() or 1, memory=memory(), compiler=has_compiler())


def refuse_float16() -> None:
    """RequestError with what a product of 256 x 256 matrices ran at just now: why no run computes in float16."""
    import torch
    rates = {}
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.ones(256, 256).to(dtype)
        x @ x
        start = time.perf_counter()
        x @ x
        rates[dtype] = 2 * 256**3 / (time.perf_counter() - start) / 1e9
    half, wide = rates[torch.float16], rates[torch.bfloat16]
    raise RequestError(f"train.dtype=float16 is not for training here: a matrix product ran at {half:.2g} GFLOP/s in "
                       f"it and at {wide:.2g} in bfloat16, and gradients below 6e-8 vanish in it; use "
                       "train.dtype=bfloat16 or float32")


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one call, at the fastest tenth of a window's calls; what is queued on a GPU is waited for."""
    import torch
    finish = torch.cuda.synchronize if torch.cuda.is_available() else int
    work()
    finish()
    took: list[float] = []
    begun = time.perf_counter()
    while len(took) < 3 or time.perf_counter() - begun < WINDOW:
        start = time.perf_counter()
        work()
        finish()
        took.append(time.perf_counter() - start)
    return sorted(took)[int(FASTEST * len(took))]


def _quota() -> int:
    """Whole cores a container may use at once (cgroup v2 `cpu.max`: "quota period"), a large number without a limit."""
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdigit() and period.strip().isdigit() else 1 << 20


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source"


if __name__ == "__main__":
    print(json.dumps({**identity(), **dataclasses.asdict(measured())}, indent=2))
