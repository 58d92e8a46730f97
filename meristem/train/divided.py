"""Tensors that are divided over processes (torch.distributed.tensor): put together, and cut again.

Every function takes an ordinary tensor as well and then imports nothing: one process pays nothing for the others.
"""
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is divided (or copied) over processes by torch."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A divided tensor put together on every process (all must call)."""
    return tensor.full_tensor() if divided(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a divided tensor."""
    return tensor.to_local() if divided(tensor) else tensor


def part(full: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided like another; every process has it, so nothing is sent."""
    if not divided(like):
        return full
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def alike(tensor: Tensor, like: Tensor) -> Tensor:
    """A divided tensor in the parts in which another one of its shape is (all must call)."""
    if not divided(tensor) or not divided(like) or tensor.placements == like.placements:
        return tensor
    return tensor.redistribute(placements=like.placements)


def axes(tensor: Tensor) -> dict[str, int]:
    """The axes of the mesh over which a tensor is divided, and their sizes."""
    if not divided(tensor):
        return {}
    mesh = tensor.device_mesh
    assert mesh.mesh_dim_names is not None
    return {name: size for name, size, how in zip(mesh.mesh_dim_names, mesh.shape, tensor.placements, strict=True)
            if not how.is_replicate()}                         # a _StridedShard does not call itself a shard
