"""Parameters, gradients and moments divided over the processes that share the data.

FSDP2 (`fully_shard`): Zhao et al. 2023, https://arxiv.org/abs/2304.11277; Rajbhandari et al. 2020 (ZeRO-3),
https://arxiv.org/abs/1910.02054. Each block gathers its weights for its forward and its backward pass and keeps a part
of them otherwise; gradients are summed and divided by the same step. `train.shard=false` keeps whole copies instead
and sums gradients after the backward pass.
"""
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from meristem.objectives.base import Objective
from meristem.train.divided import local
from meristem.train.mesh import World
from meristem.train.trainer import blocks

BUCKET = 1 << 25                        # numbers that are summed in one message


def shard(objective: Objective, world: World, apart: Sequence[nn.Module] = ()) -> None:
    """Divide what is in `objective` over the processes that share the data.

    `apart`: experts that are divided over ep already, so that only dp and cp have the same ones.
    """
    for module in apart:
        fully_shard(module, mesh=world.sub("copies"))
    for block in blocks(objective):
        fully_shard(block, mesh=world.sub("data"))
    scalars = {p for p in objective.parameters() if p.ndim == 0}                    # FSDP2 takes none; summed apart
    fully_shard(objective, mesh=world.sub("data"), reshard_after_forward=True,      # a validation leaves nothing whole
                ignored_params=scalars)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)             # sums: the loss is divided by the global weight already
            module.set_force_sum_reduction_for_comms(True)     # gloo knows no premultiplied sum


def add_up(params: Sequence[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Sum the gradients of parameters that are not divided over a group, many in one message."""
    if dist.get_world_size(group) == 1:
        return
    while params:
        count, size = 0, 0
        while count < len(params) and (count == 0 or size + params[count].numel() <= BUCKET):
            size, count = size + params[count].numel(), count + 1
        grads = [local(p.grad) for p in params[:count] if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat, group=group)
        for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(total.view_as(grad))
        params = params[count:]
