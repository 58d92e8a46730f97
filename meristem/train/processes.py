"""What the trainer asks of the processes of a run: `One` computes alone, `train.many.Many` with others."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meristem.core.types import Batch
from meristem.objectives.base import Objective
from meristem.train.checkpoint import Checkpoints, Found
from meristem.train.mesh import ALONE
from meristem.train.pieces import Layout, Share, Tensors

Like = Callable[[str], Tensor | None]   # the tensor that a loaded one of this name is to be divided like
Sums = dict[str, Tensor]


class One:
    """A run in one process; and the interface of `Many`."""

    world = ALONE
    plain: nn.Module | None = None      # the outline of an undivided model, where the run's is divided

    def seed(self, seed: int, step: int) -> None:
        """Seed the forward pass, after the batch is prepared: it goes on where that stopped."""

    def mine(self, batch: Batch) -> Batch:
        """This process's rows and places of a prepared batch."""
        return batch

    def sum(self, *values: float) -> list[float]:
        """Numbers added up over the processes with other rows or places."""
        return list(values)

    def backward(self, objective: Objective, micro: list[Batch], share: float) -> Sums:
        """Gradients of the summed loss over `share`; the sums of loss and facts over all micro-batches."""
        sums: Sums = {}
        for batch in micro:
            loss, extra = objective(batch)
            (loss / share).backward()
            add(sums, {"loss": loss, **extra})
        return sums

    def judge(self, objective: Objective, batch: Batch) -> tuple[float, float]:
        """This process's share of the summed loss of a prepared batch of any size, and of its weight."""
        return float(objective(batch)[0]), float(objective.weight(batch))

    def norm(self, params: Sequence[nn.Parameter]) -> Tensor:
        """The norm of all gradients."""
        return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])

    def clip(self, params: Sequence[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Scale all gradients so that their norm is `limit`."""
        nn.utils.clip_grads_with_norm_(params, limit, norm)

    def agree(self, signal: int, save: bool) -> tuple[int, bool]:
        """The signal that any process got, and whether the first one wants to save."""
        return signal, save

    def compare(self, step: int, objective: Objective, facts: dict[str, Any]) -> None:
        """MachineError naming the process whose copy of the weights, or whose batches, differ from the others'."""

    def pieces(self, tensors: Tensors) -> tuple[Tensors, Layout | None]:
        """What this process writes of a checkpoint, and where it lies in the whole tensors."""
        return tensors, None

    def whole(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undivided tensors on the first process, {} or parts of them on the others."""
        return named

    def model(self, objective: Objective) -> nn.Module | None:
        """The model with undivided weights, on the first process (all must call); None on the others."""
        return objective.model

    def newest(self, checkpoints: Checkpoints | Share, last: int | None, like: Like) -> Found | None:
        """The newest good checkpoint with this process's part of every tensor."""
        assert isinstance(checkpoints, Checkpoints)
        return checkpoints.newest(last)


def add(sums: Sums, facts: Sums) -> None:
    """Add the sums of a micro-batch, in fp32."""
    for key, value in facts.items():
        sums[key] = sums.get(key, torch.zeros(())) + value.detach().float()
