"""How fast this machine really trains a given run: a few steps of it, timed, nothing kept.

The planner asks this of the shape it would choose, so that its step count rests on a measurement and not on a table.
The compiled kernels are cached on disk, so the run itself compiles in a tenth of the time.
"""
import statistics
import time

from meristem.core.run import Run
from meristem.train.run import assemble, trainer_of

STEPS = 5


def tokens_per_second(run: Run, steps: int = STEPS) -> float:
    """Median training rate of `run` in tokens/s, after one step that compiles."""
    parts = assemble(run)
    trainer = trainer_of(parts)
    seconds = []
    for step in range(steps + 1):
        batch = trainer.source(step)
        start = time.perf_counter()
        trainer.update(batch)
        seconds.append(time.perf_counter() - start)
    return run.train.batch * run.train.context / statistics.median(seconds[1:])
