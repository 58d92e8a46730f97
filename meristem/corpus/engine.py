"""Where a curation's work is done: `run(function, batches)` gives the results in order, here or in other processes.

The function is pure and its batches carry everything, so any engine gives the same corpus; another one (a cluster) has
this signature. A worker that is killed costs its batches' time and nothing else: they are done again.

    for result in run(len, [["a"], ["b", "c"]], workers=2): ...
"""
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from meristem.core.errors import MachineError

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 2                               # batches in flight a worker: what memory they may take
DEATHS = 3                              # in a row, of workers at the same batch: it kills them


def run(function: Callable[[A], B], batches: Iterable[A], workers: int = 1) -> Iterator[B]:
    """`map(function, batches)` on `workers` processes, in order; MachineError when a batch kills every worker."""
    if workers <= 1:
        yield from map(function, batches)
        return
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


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
