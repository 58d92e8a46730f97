"""Native products of few rows on a CPU, and norms of pictures: `kernel.cpp`, built on first use, called by ctypes.

A decoded token reads every weight once, so its ceiling is memory bandwidth over weight bytes; torch's operators stop at
a third of it (docs/benchmarks.md). Nothing here is needed: without a C++ compiler, or with MERISTEM_KERNEL=0,
`library()` is None and everything runs on torch, which is also the reference of the tests and the path of gradients.

The library lies in the user's cache folder under a hash of source, compiler, flags and processor. It is linked against
the OpenMP runtime that torch has loaded: two runtimes would be two pools of threads, spinning against each other.
`python -m meristem.nn.kernel` builds it and says what was found.
"""
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")
PATIENCE = 120                          # seconds a compiler may take; it takes 3
LEVELS = {1: "portable vectors", 2: "AVX-512", 3: "AVX-512 with bf16 dot products"}
KINDS = {torch.float32: 1, torch.bfloat16: 2}                  # enum Kind of kernel.cpp
INT8, INT4 = 3, 4
MOST = 32                               # rows of a bf16 product; beyond, torch's is up to twice as fast
WIDE, STEP = 128, 32                    # rows with AVX-512's bf16 products, columns a multiple of 32: beyond, torch's
PACKED = 1024                           # tokens that all blocks take in one call: what lies between products is native
BLOCK = 1024                            # outputs unpacked at a time for it


class Matrix(ctypes.Structure):
    """A weight [rows, cols] as kernel.cpp sees it."""

    _fields_ = [("data", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("low", ctypes.c_void_p),
                ("bias", ctypes.c_void_p), ("rows", ctypes.c_int64), ("cols", ctypes.c_int64),
                ("group", ctypes.c_int64), ("kind", ctypes.c_int64)]


class Layer(ctypes.Structure):
    """One block as kernel.cpp sees it."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("norm1", "norm2", "q_norm", "k_norm")),
                *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
                ("keys", ctypes.c_void_p), ("values", ctypes.c_void_p),
                *((name, ctypes.c_int64) for name in ("window", "chunk", "turned"))]


class Network(ctypes.Structure):
    """All blocks as kernel.cpp sees them."""

    _fields_ = [("layers", ctypes.c_void_p), ("norm", ctypes.c_void_p),
                *((name, ctypes.c_int64) for name in ("count", "dim", "heads", "groups", "head_dim", "hidden", "slots",
                                                      "half")),
                *((name, ctypes.c_float) for name in ("scale", "eps", "head_eps")),
                ("table", ctypes.c_void_p), ("width", ctypes.c_int64),
                ("updates", ctypes.c_void_p), ("rank", ctypes.c_int64)]


class Product:
    """y = x W^T + b for few rows; keeps the tensors that its matrix points into."""

    def __init__(self, weight: Tensor, kind: int, rows: int, cols: int, dtype: torch.dtype, *,
                 bias: Tensor | None = None, scale: Tensor | None = None, low: Tensor | None = None, group: int = 0):
        self.weight, self.dtype, self.scale, self.low = weight, dtype, scale, low
        self.bias = None if bias is None else bias.detach().to(dtype).float().contiguous()
        assert all(t is None or t.is_contiguous() for t in (weight, scale, low))
        self.matrix = Matrix(weight.data_ptr(), _pointer(scale), _pointer(low), _pointer(self.bias), rows, cols,
                             group, kind)
        self.most = WIDE if self.plain else MOST

    def fits(self, x: Float[Tensor, "*B I"]) -> bool:
        """Whether `x` is of this product's type and no gradient is wanted."""
        return x.dtype == self.dtype and not torch.is_grad_enabled()

    def __call__(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., cols] -> [..., rows] in the type of x, which is that of the product."""
        rows = x.detach().reshape(-1, self.matrix.cols)
        if x.dtype == torch.bfloat16 and len(rows) > self.most:
            y = self._many(rows)
        else:
            y = self._few(rows.float().contiguous()).to(x.dtype)
        return y.view(*x.shape[:-1], self.matrix.rows)

    def wide(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """The same numbers in fp32, without the way through the type of x where the kernel computes them."""
        return self._few(x.detach().float().contiguous()) if len(x) <= self.most else self(x).float()

    @property
    def plain(self) -> bool:
        """Whether many rows are as fast here as in torch."""
        pairs = self.matrix.cols % STEP == 0 and level() == max(LEVELS)
        return self.scale is None and (self.dtype == torch.float32 or pairs)

    def _few(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """The kernel's own product; in fp32 it is ahead of torch's for any number of rows (MKL on AMD)."""
        lib = library()
        assert lib is not None
        y = torch.empty(len(x), self.matrix.rows)
        lib.meristem_product(ctypes.byref(self.matrix), x.data_ptr(), y.data_ptr(), len(x),
                             self.dtype == torch.bfloat16, torch.get_num_threads())
        return y

    def _many(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """torch's product in bf16; packed weights are unpacked BLOCK outputs at a time, which stay in the cache."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.scale is None:
            return F.linear(x, self.weight, bias)
        lib = library()
        assert lib is not None
        columns, block = self.matrix.rows, torch.empty(self.matrix.cols, BLOCK + 32, dtype=x.dtype)   # + 32: other sets
        y = torch.empty(len(x), columns, dtype=x.dtype)
        for start in range(0, columns, BLOCK):
            stop = min(start + BLOCK, columns)
            lib.meristem_unpack(ctypes.byref(self.matrix), block.data_ptr(), BLOCK + 32, start // 16, (stop + 15) // 16,
                                1, torch.get_num_threads())
            y[:, start:stop] = x @ block[:, :stop - start]
        return y if bias is None else y + bias


def judge(logits: Float[Tensor, "B V"]) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
    """Of each row the log of the sum of exp, and the first largest place: one pass instead of torch's ten operators."""
    lib = library() if logits.dtype == torch.float32 and logits.device.type == "cpu" else None
    if lib is None:
        return logits.logsumexp(-1), logits.argmax(-1)
    logits = logits.detach().contiguous()
    total, best = torch.empty(len(logits)), torch.empty(len(logits), dtype=torch.long)
    lib.meristem_judge(logits.data_ptr(), *logits.shape, total.data_ptr(), best.data_ptr(), torch.get_num_threads())
    return total, best


def draw(logits: Float[Tensor, "B V"], at: Tensor, temperature: float) -> Int[Tensor, "B"] | None:
    """Of each row the token in whose share of softmax(logits / temperature) `at` (float64 [B] in [0, 1)) falls.

    -1 where float32 cannot tell; None without the kernel. One pass of float32 instead of six of float64.
    """
    lib = library() if logits.dtype == torch.float32 and logits.device.type == "cpu" else None
    if lib is None:
        return None
    logits, at, out = logits.detach().contiguous(), at.contiguous(), torch.empty(len(logits), dtype=torch.long)
    lib.meristem_draw(logits.data_ptr(), *logits.shape, at.data_ptr(), temperature, out.data_ptr(),
                      torch.get_num_threads())
    return out


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def library() -> ctypes.CDLL | None:
    """The compiled kernel, built if need be; None where it is switched off or cannot be built (`why()` says why)."""
    if os.environ.get("MERISTEM_KERNEL") == "0":
        return None
    return _found()[0]


def level() -> int:
    """Of LEVELS, what the kernel can do here; 0 without one."""
    lib = library()
    return 0 if lib is None else int(lib.meristem_level())


def why() -> str:
    """One line: what the kernel can do here, or why it is not used."""
    if os.environ.get("MERISTEM_KERNEL") == "0":
        return "switched off by MERISTEM_KERNEL=0"
    return _found()[1]


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The library and what to say about it; looked for once a process."""
    compiler = next((c for c in (shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"])
                     if c and shutil.which(c[0])), None)
    if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None, "needs a little-endian 64-bit processor"
    if compiler is None:
        return None, "no C++ compiler found; install g++ or clang++ for faster generation"
    try:
        lib = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        return None, "the kernel could not be built: " + (told.strip().splitlines() or ["no message"])[-1]
    lib.meristem_step.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 4 + [ctypes.c_int]
    lib.meristem_see.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    lib.meristem_low_rank.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4, ctypes.c_void_p,
                                      *[ctypes.c_int64] * 2, ctypes.c_int]
    lib.meristem_judge.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2, ctypes.c_int]
    lib.meristem_draw.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p, ctypes.c_double,
                                  ctypes.c_void_p, ctypes.c_int]
    lib.meristem_product.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    lib.meristem_unpack.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 4 + [ctypes.c_int]
    lib.meristem_norm.argtypes = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 4, ctypes.c_float, *[ctypes.c_int64] * 2,
                                  ctypes.c_int]
    lib.meristem_norm_back.argtypes = [*[ctypes.c_void_p] * 9, *[ctypes.c_int64] * 6, ctypes.c_int]
    lib.meristem_norm.restype = lib.meristem_norm_back.restype = None
    lib.meristem_step.restype = ctypes.c_int64
    lib.meristem_product.restype = lib.meristem_unpack.restype = lib.meristem_judge.restype = None
    lib.meristem_see.restype = lib.meristem_low_rank.restype = lib.meristem_draw.restype = None
    return lib, LEVELS[lib.meristem_level()]


def _built(compiler: list[str]) -> Path:
    """Path of the library, compiled now if it is not in the cache folder."""
    openmp = _openmp()
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    facts = (SOURCE.read_text(encoding="utf-8"), shlex.join(compiler), version.stdout, *FLAGS, _processor(),
             str(openmp))
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meristem" / "kernel"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:                                           # a read-only home: built again by each process
        folder = Path(tempfile.mkdtemp(prefix="meristem-kernel-"))
    path = folder / f"{key}.so"
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            half, whole = Path(scratch) / "kernel.o", Path(scratch) / path.name
            options = ["-fopenmp"] if openmp else []
            for words in ([*FLAGS, *options, "-c", str(SOURCE), "-o", str(half)],
                          ["-shared", "-o", str(whole), str(half), *([str(openmp)] if openmp else [])]):
                subprocess.run([*compiler, *words], capture_output=True, text=True, check=True, timeout=PATIENCE)
            os.replace(whole, path)                            # whole or absent: two builders race harmlessly
    return path


def _openmp() -> Path | None:
    """The OpenMP runtime that torch has loaded into this process (GNU's, or LLVM's and Intel's, which speak it too)."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.findall(r"(/\S*/lib(?:gomp|omp|iomp5)\b[^/\s]*\.so[^/\s]*)", maps)
    return Path(sorted(set(found), key=lambda path: ("torch" not in path, path))[0]) if found else None


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))}))
