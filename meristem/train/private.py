"""DP-SGD: each row's gradient is clipped to a length, and noise of that length is added to their sum.

Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1. `train.private_noise=1.0 train.private_clip=1.0
train.guard=false` turns it on; what it promises is `plan.privacy.spent`. The unit that is protected is a row: a window
of packed text, an example. Rows are taken one at a time, so a step costs as many passes as it has rows.
"""
import torch

from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.objectives.base import Objective
from meristem.train.processes import One, Sums, add


class Private(One):
    """One process whose gradients are private."""

    def __init__(self, noise: float, clip: float):
        self.noise, self.limit = noise, clip

    def backward(self, objective: Objective, micro: list[Batch], share: float) -> Sums:
        """The noisy mean of the clipped gradients; the sums of loss and facts as they are (they are not private)."""
        sums: Sums = {}
        params = [p for p in objective.parameters() if p.requires_grad]
        totals = [torch.zeros_like(p) for p in params]
        rows = 0
        for batch in micro:
            size = len(next(iter(batch.values())))
            for row in range(size):
                one = {key: value[row:row + 1] if value.ndim and len(value) == size else value
                       for key, value in batch.items()}
                loss, extra = objective(one)
                add(sums, {"loss": loss, **extra})
                weight = float(objective.weight(one))
                if weight <= 0:
                    continue
                given = torch.autograd.grad(loss / weight, params, allow_unused=True)
                found = [torch.zeros_like(p) if g is None else g for p, g in zip(params, given, strict=True)]
                length = torch.nn.utils.get_total_norm(found)
                scale = (self.limit / (length + 1e-6)).clamp(max=1.0)
                torch._foreach_add_(totals, torch._foreach_mul(found, scale))
            rows += size
        for p, total in zip(params, totals, strict=True):
            p.grad = (total + self.noise * self.limit * torch.randn_like(total)) / rows
        return sums


def processes_of(given: One | None, config: Train) -> One:
    """The processes of a run, private ones where the recipe asks; RequestError for what cannot be combined with it."""
    if not config.private_noise:
        return given or One()
    if given is not None and given.world.mesh.world > 1:
        raise RequestError("DP-SGD runs in one process: leave out train.mesh")
    if config.guard:
        raise RequestError("the guard decides by losses, which are not private: add train.guard=false")
    return Private(config.private_noise, config.private_clip)
