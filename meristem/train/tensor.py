"""Tensor parallelism: each matrix of a layer divided over processes, by the layer's type.

Shoeybi et al. 2019 (Megatron-LM), https://arxiv.org/abs/1909.08053 section 3, with torch.distributed.tensor's styles:
a process has some heads of every attention and some columns of every feed-forward layer, and sums of its outputs with
the others' close each of them. Tables and heads over the vocabulary are divided by tokens. No family knows of it.

| layer | first matrices, by rows of the weight | last, by columns |
| --- | --- | --- |
| Attention, CrossAttention | q k v (one shared key head stays whole), norms of q and k follow the heads | o |
| MLP, GatedMLP | gate up | down |
| RelativeBias | its table, by heads | |
| Embedding and Linear called embed and head | tokens | |
"""
import functools

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

from meristem.adapt.files import method_of
from meristem.core.errors import RequestError
from meristem.nn.attention import Attention, CrossAttention
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, GatedMLP
from meristem.nn.relative import RelativeBias, bucket

PER_HEAD = 2                            # the axis of heads in [B, T, H, K]


def plan(model: nn.Module, size: int) -> dict[str, ParallelStyle]:
    """The style of each Linear, Embedding and norm that is divided over `size` processes, by name.

    RequestError where heads or widths are no multiple of it, or nothing can be divided.
    """
    styles: dict[str, ParallelStyle] = {}
    if method_of(model):
        raise RequestError("tp does not divide adapters; adapt a model with dp")
    for name, layer in model.named_modules():
        dot = f"{name}." if name else ""
        if isinstance(layer, Attention | CrossAttention):
            groups = layer.groups if isinstance(layer, Attention) else layer.heads
            _fits(layer.heads, size, "heads")
            columns = ["q"]
            if groups > 1:
                _fits(groups, size, "key heads (groups)")
                columns += ["k", "v"]
            styles |= {dot + child: ColwiseParallel() for child in columns} | {dot + "o": RowwiseParallel()}
            normed = [f"{child}_norm" for child in columns[:2] if not isinstance(layer, CrossAttention)
                      and not isinstance(layer.get_submodule(f"{child}_norm"), nn.Identity)]
            styles |= {dot + child: SequenceParallel(sequence_dim=PER_HEAD, use_local_output=True) for child in normed}
        elif isinstance(layer, MLP | GatedMLP):
            first = ["up", "gate"] if isinstance(layer, GatedMLP) else ["up"]
            _fits(layer.up.out_features, size, "hidden numbers of a feed-forward layer")
            styles |= {dot + child: ColwiseParallel() for child in first} | {dot + "down": RowwiseParallel()}
    if not styles:
        raise RequestError("this model has no layer that tp can divide; use dp")
    children = dict(model.named_children())
    embed, head = children.get("embed"), children.get("head")
    if isinstance(embed, Embedding):
        styles["embed"] = RowwiseParallel(input_layouts=Replicate())
        if isinstance(head, Linear) and head.out_features == embed.num_embeddings:
            styles["head"] = ColwiseParallel(output_layouts=Replicate())
    return styles


def divide(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide `model` over the processes of a one-axis mesh, in place; what it computes stays the same."""
    embed, head = (dict(model.named_children()).get(name) for name in ("embed", "head"))
    tied = isinstance(embed, Embedding) and isinstance(head, Linear) and head.weight is embed.weight
    for name, style in plan(model, mesh.size()).items():
        parallelize_module(model.get_submodule(name), mesh, style)
    if tied and isinstance(embed, Embedding) and isinstance(head, Linear):
        head.weight = embed.weight                             # dividing made two parameters of one
    for layer in model.modules():
        if isinstance(layer, RelativeBias):
            table = distribute_tensor(layer.table.weight.data, mesh, [Shard(1)])
            layer.table.weight = nn.Parameter(table, layer.table.weight.requires_grad)
            layer.forward = functools.partial(_bias, layer)    # type: ignore[method-assign]
        if isinstance(layer, Attention) and layer.groups == 1:
            key = layer.k if isinstance(layer.k_norm, nn.Identity) else layer.k_norm
            for shared in (key, layer.v):
                shared.register_forward_hook(functools.partial(_sum_gradients, mesh))


def _bias(layer: RelativeBias, query: Int[Tensor, "*B T"], key: Int[Tensor, "*B S"]) -> Float[Tensor, "*B h T S"]:
    """RelativeBias.forward for the heads that are here."""
    table = layer.table.weight
    mine = table.to_local() if isinstance(table, DTensor) else table
    distance = key[..., None, :] - query[..., :, None]
    return F.embedding(bucket(distance, len(mine), layer.furthest, layer.causal), mine).movedim(-1, -3)


def _sum_gradients(mesh: DeviceMesh, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
    """The same numbers, whose gradient is summed over the processes: each has only its own heads' share of it."""
    return DTensor.from_local(made, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


def _fits(count: int, size: int, what: str) -> None:
    if count % size:
        raise RequestError(f"{count} {what} do not divide into tp={size} equal parts")
