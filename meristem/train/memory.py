"""A run that does not fit into memory says what it needed, in numbers, and three things to do about it.

    with explained(run) as parts:        # a list: put the assembled parts in when they are there
        ...

torch reports a failed allocation as a RuntimeError with a C++ stack; the kernel's out-of-memory killer says nothing at
all (the run then goes on from its checkpoint, and the third time in the same step it stops, `train.watch`).
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meristem.core import machine
from meristem.core.errors import MachineError
from meristem.core.run import Run
from meristem.plan.cost import Cost

if TYPE_CHECKING:
    from meristem.train.run import Parts

WORDS = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


@contextmanager
def explained(run: Run) -> Iterator[list["Parts"]]:
    """Turn a failed allocation inside the block into one line with the arithmetic; every other error passes."""
    parts: list[Parts] = []
    try:
        yield parts
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error).lower() for word in WORDS):
            raise
        rows = run.train.micro or run.train.batch
        raise MachineError(f"out of memory ({sums(run, parts)}); set train.micro below {rows} rows (the same "
                           "mathematics, a new run), lower train.context, or choose a smaller model") from error


def sums(run: Run, parts: list["Parts"]) -> str:
    """What the run needs by what for, as far as it is known, and what this machine has."""
    has = f"this machine has {machine.memory() / 1e9:.3g} GB"
    if not parts:
        return has
    t = run.train
    need = Cost.of(parts[0].objective.model, t.context).memory((t.micro or t.batch) * t.context, t.optimizer, t.ema > 0)
    return f"{', '.join(f'{name} {size / 1e9:.2g} GB' for name, size in need.items())}; {has}"
