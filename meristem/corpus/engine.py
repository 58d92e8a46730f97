"""Where a curation's work is done: `run(function, batches)` gives the results in order, here or elsewhere.

The function is pure and its batches carry everything, so any engine gives the same corpus. "" is ours: this process, or
`workers` of them. "daft" hands packed batches (corpus/wire.py) to Daft's embedded runner (on Ray where DAFT_RUNNER=ray
says so), "ray" to tasks of a Ray started here, "ray://HOST:PORT" to those of a cluster (extra `cluster`). A worker that
is killed costs its batches' time and nothing else: they are done again.

    for result in run(len, [["a"], ["b", "c"]], workers=2): ...
"""
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import Any, TypeVar

from meristem.core.errors import MachineError, RequestError, nearest
from meristem.corpus.wire import Over, Wire

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 2                               # batches in flight a worker: what memory they may take
DEATHS = 3                              # in a row, of workers at the same batch: it kills them
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # neither reports to its makers what is done with it
NAMES = ("local", "daft", "ray", "ray://HOST:PORT")


def run(function: Callable[[A], B], batches: Iterable[A], workers: int = 1, engine: str = "",
        wire: Wire | None = None) -> Iterator[B]:
    """`map(function, batches)` in order; MachineError when a batch kills every worker. Engines other than ours need the
    `wire` of the function; RequestError for one that is not known or not installed."""
    check(engine)
    if engine in ("", "local"):
        yield from _processes(function, batches, workers) if workers > 1 else map(function, batches)
        return
    assert wire is not None
    packed = map(wire.pack, batches)
    done = _daft(Over(wire, function), packed, workers) if engine == "daft" else _ray(Over(wire, function), packed,
                                                                                     workers, engine)
    yield from map(wire.returned, done)


def check(engine: str) -> None:
    """RequestError for a name that is no engine, or one whose package is not installed."""
    if engine not in ("", "local", "daft", "ray") and not engine.startswith("ray://"):
        raise RequestError(f"no engine {engine!r}; {nearest(engine, NAMES)}")
    if engine not in ("", "local"):
        _module(engine[:4].rstrip(":"))


def _processes(function: Callable[[A], B], batches: Iterable[A], workers: int) -> Iterator[B]:
    waiting: deque[tuple[A, Future[B]]] = deque()
    source, deaths, more = iter(batches), 0, True
    pool = _pool(workers)
    try:
        while more or waiting:
            while more and len(waiting) < AHEAD * workers:
                batch = next(source, None)
                if batch is None:
                    more = False
                else:
                    waiting.append((batch, pool.submit(function, batch)))
            if not waiting:
                return
            try:
                result = waiting[0][1].result()
            except BrokenProcessPool:
                if (deaths := deaths + 1) >= DEATHS:
                    raise MachineError(f"workers were killed {deaths} times at the same batch (out of memory?); "
                                       "try --workers 1") from None
                pool.shutdown(cancel_futures=True)
                pool = _pool(workers)
                waiting = deque((batch, pool.submit(function, batch)) for batch, _ in waiting)
                continue
            deaths = 0
            waiting.popleft()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _daft(function: Callable[[bytes], bytes], batches: Iterator[bytes], workers: int) -> Iterator[bytes]:
    """A data frame of some batches at a time, through a function of Daft's, in order."""
    daft = _module("daft")

    def work(batch: bytes) -> bytes:
        return function(batch)
    worked = daft.func(work, return_dtype=daft.DataType.binary())
    while some := list(itertools.islice(batches, AHEAD * workers)):
        frame = daft.from_pydict({"number": list(range(len(some))), "batch": some}).into_batches(1)
        found = frame.select(daft.col("number"), worked(daft.col("batch")).alias("result")).to_pydict()
        yield from (raw for _, raw in sorted(zip(found["number"], found["result"], strict=True)))


def _ray(function: Callable[[bytes], bytes], batches: Iterator[bytes], workers: int, address: str) -> Iterator[bytes]:
    """Tasks on Ray, a few for each of its cores in flight; Ray does those of a killed worker again."""
    ray = _module("ray")
    if not ray.is_initialized():                               # stays up with this process: starting takes 40 s
        where: dict[str, Any] = {"address": address} if address != "ray" else {
            "num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level="error")
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            raise RequestError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())[:150]}") from None

    def work(batch: bytes) -> bytes:
        return function(batch)
    task = ray.remote(num_cpus=1, max_retries=DEATHS)(work)
    ahead = AHEAD * max(workers, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(task.remote(batch) for batch in itertools.islice(batches, ahead))
    while waiting:
        try:
            result = ray.get(waiting.popleft())
        except ray.exceptions.WorkerCrashedError:
            raise MachineError(f"workers were killed {DEATHS + 1} times at the same batch (out of memory?); give "
                               "the cluster's tasks more memory") from None
        waiting.extend(task.remote(batch) for batch in itertools.islice(batches, 1))
        yield result


def _module(name: str) -> Any:
    for switch, off in QUIET.items():
        os.environ.setdefault(switch, off)
    try:
        return import_module(name)
    except ImportError:
        raise RequestError(f"the engine {name} needs a package: pip install {name} pyarrow") from None


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
