"""Where a run computes: on this process's GPU where torch finds one, otherwise on the CPU.

Batches are made, and their random numbers drawn, on the CPU, so that a run reads the same data everywhere; the
objective moves them (`Objective`). What generates - samples, painted grids, rollouts - computes on the CPU, and so does
an objective that asks networks while it prepares a batch (`Objective.anywhere`). CUDA_VISIBLE_DEVICES="" keeps a run
on the CPU. Tested without a GPU: the meta device refuses to mix with CPU tensors as a GPU does. Many processes on GPUs
have never run, and a pipeline (pp), whose stages call no objective, does not move its batches yet.
"""
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from meristem.core import machine
from meristem.objectives.base import Objective


def settle(objective: Objective) -> None:
    """Move an objective, and what it keeps beside its model, to where it is trained; before there is an optimizer."""
    if objective.anywhere:
        objective.to(machine.device())


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """Have a module on the CPU for a while; its parameters stay the same objects, and their numbers the same bits."""
    place = next(module.parameters()).device
    if place.type == "cpu":
        yield
        return
    module.to("cpu")
    try:
        yield
    finally:
        module.to(place)
