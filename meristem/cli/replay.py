"""`meristem replay`: recompute a step of a run and compare it with the log, bit for bit."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer
from meristem.cli.display import shown
from meristem.core.errors import MachineError


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    step: Annotated[int, typer.Option(help="The step to recompute, as numbered in log.jsonl.", min=1)],
) -> Answer:
    """Recompute a step of a run and compare loss, gradient norm, learning rate and targets bit for bit.

    Starts at the newest checkpoint before the step, or from the seed, and compares every step on the way. Writes
    nothing into the run.

    Example: meristem replay runs/llama --step 1200

    Exit status: 0 ok, every bit is the same; 1 something differs, or the machine failed; 2 the request was wrong.
    """
    from meristem.train.replay import replay as again
    with shown("replay") as progress:
        found = again(run, step, progress)
    if found.differences:
        at, key, was, now = found.differences[0]
        raise MachineError(f"step {at} of {run} cannot be repeated: its {key} was {was!r} and is now {now!r} "
                           f"({len(found.differences)} differences in steps {found.first} to {found.step}); another "
                           "machine, version or corpus computes other bits")
    return Answer({"run": str(run), "first": found.first, "step": found.step, "equal": True},
                  f"steps {found.first} to {found.step} of {run}: the same bits as logged")
