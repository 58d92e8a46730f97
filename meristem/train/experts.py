"""Expert parallelism: each process has some of the experts, and tokens travel to them and back.

GShard (Lepikhin et al. 2020, https://arxiv.org/abs/2006.16668 section 3.2) without a capacity: no token is dropped.
The router and everything else is whole on every process, which also has rows of its own (ep divides rows like dp). A
mixture layer sends each row to the process of its expert, where rows of one expert from all processes are put side by
side, and sends back what was made of it: two exchanges forward, two backward.
"""
import functools
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from meristem.core.errors import RequestError
from meristem.nn.moe import Experts


def divide(model: nn.Module, mesh: DeviceMesh) -> list[Experts]:
    """Divide the experts of every mixture layer over a one-axis mesh, in place, and return them.

    RequestError when there are none, or a number that is no multiple of the processes.
    """
    found = [layer for layer in model.modules() if isinstance(layer, Experts)]
    if not found:
        raise RequestError("ep divides experts, and this model has none; use dp")
    for layer in found:
        if len(layer.gate) % mesh.size():
            raise RequestError(f"{len(layer.gate)} experts do not divide into ep={mesh.size()} equal parts")
        for name, matrices in list(layer.named_parameters()):
            here = distribute_tensor(matrices.data, mesh, [Shard(0)], src_data_rank=None)
            layer.register_parameter(name, nn.Parameter(here, matrices.requires_grad))
        layer.forward = functools.partial(_forward, layer, mesh.get_group())   # type: ignore[method-assign]
    return found


def _forward(layer: Experts, group: dist.ProcessGroup, x: Float[Tensor, "N D"],
             ends: Int[Tensor, "E"]) -> Float[Tensor, "N D"]:
    """Experts.forward over all processes: rows sorted by expert, of all experts."""
    processes = dist.get_world_size(group)
    load = ends.diff(prepend=ends.new_zeros(1)).long().view(processes, -1)     # [process, its expert]
    theirs = torch.empty_like(load)                                            # [from process, my expert]
    dist.all_to_all_single(theirs, load, group=group)
    send, receive = load.sum(1).tolist(), theirs.sum(1).tolist()
    came = _Exchange.apply(x, send, receive, group)                            # by process, then by expert
    kind = torch.arange(theirs.shape[1]).repeat(processes).repeat_interleave(theirs.flatten())
    order = kind.argsort(stable=True)                                          # by expert, then by process
    matrices = (p.to_local() if isinstance(p, DTensor) else p for p in (layer.gate, layer.up, layer.down))
    made = layer.through(came[order], theirs.sum(0).cumsum(0, dtype=torch.int32), *matrices)
    return _Exchange.apply(made[order.argsort()], receive, send, group)


class _Exchange(torch.autograd.Function):
    """Rows for each process, `send` of them, for rows from each, `receive` of them; gradients travel back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.back = receive, send, group
        out = x.new_empty(sum(receive), x.shape[1])
        dist.all_to_all_single(out, x.contiguous(), receive, send, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        send, receive, group = ctx.back
        out = grad.new_empty(sum(receive), grad.shape[1])
        dist.all_to_all_single(out, grad.contiguous(), receive, send, group=group)
        return out, None, None, None
