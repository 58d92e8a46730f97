"""Fast decoding on a CPU: while generating, linear layers and whole Llama-shaped networks run in the native kernel.

    with decoding(model):                                      # generate() does this
        logits = model(tokens, positions=places, cache=cache)

Inside, every Linear multiplies few rows through `nn.kernel`, and a `Fusible` model sends few tokens through all its
blocks in one call. Outside, nothing is different: training and scoring are torch alone. Both paths round at the same
places, so they differ by the order of sums: tests/nn/test_decode.py bounds it. Nothing is kept between generations: a
bf16 model with fp32 master weights is cast once at the start of each.
"""
import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.nn import kernel
from meristem.nn.attention import Attention, Cache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.norm import RMSNorm
from meristem.nn.paged import PAGE, Paged
from meristem.nn.quantise import QuantisedLinear
from meristem.nn.updates import Rows

DTYPES = (torch.float32, torch.bfloat16)
GROWN = 1024                            # positions by which the angles of pages grow


class Fusible(nn.Module):
    """A decoder whose `blocks` are x + attn(norm1 x), then x + mlp(norm2 x), closed by `norm`: `native` may run them.

    A block without rotary positions says so by its `turned`.
    """

    blocks: nn.ModuleList
    norm: nn.Module
    native: "Step | None" = None                               # set by `decoding`


class Step:
    """The blocks and the last norm of a `Fusible` model in one call of the kernel; made by `fused`."""

    def __init__(self, blocks: Sequence[Any], norm: RMSNorm, dtype: torch.dtype):
        attn, mlp = blocks[0].attn, blocks[0].mlp
        assert isinstance(attn, Attention) and isinstance(mlp, GatedMLP)
        self.dtype = dtype
        self.kept: list[object] = []                           # what the pointers point into
        self.angles: Tensor | None = None                      # [2, slots, F]
        self.packed = True                                     # many tokens at once pay, too
        self.rows: Rows | None = None                          # whose updates (`nn.updates`) each row has
        self.layers = (kernel.Layer * len(blocks))()
        for layer, block in zip(self.layers, blocks, strict=True):
            self._fill(layer, block)
        head_eps = attn.q_norm.eps if isinstance(attn.q_norm, RMSNorm) else norm.eps
        self.network = kernel.Network(ctypes.addressof(self.layers), self._norm(norm), len(blocks), norm.weight.numel(),
                               attn.heads, attn.groups, attn.head_dim, mlp.up.out_features, 0, dtype == torch.bfloat16,
                               attn.scale, norm.eps, head_eps)

    def _fill(self, layer: kernel.Layer, block: Any) -> None:
        attn, mlp = block.attn, block.mlp
        assert isinstance(attn, Attention) and isinstance(mlp, GatedMLP)
        layer.norm1, layer.norm2 = self._norm(block.norm1), self._norm(block.norm2)
        layer.q_norm, layer.k_norm = self._norm(attn.q_norm), self._norm(attn.k_norm)
        for name in ("q", "k", "v", "o", "gate", "up", "down"):
            linear = getattr(attn if name in "qkvo" else mlp, name)
            assert linear.native is not None
            self.kept.append(linear.native)
            self.packed = self.packed and linear.native.plain
            setattr(layer, name, linear.native.matrix)
        layer.window, layer.chunk, layer.turned = attn.reach.window, attn.reach.chunk, bool(block.turned)

    def _norm(self, norm: nn.Module) -> int | None:
        if isinstance(norm, nn.Identity):
            return None
        assert isinstance(norm, RMSNorm)
        weight = norm.weight.detach().to(self.dtype).float().contiguous()
        self.kept.append(weight)
        return weight.data_ptr()

    def fits(self, x: Tensor, cache: Sequence[Cache]) -> bool:
        """Whether one call can take these embeddings [B, T, D] and caches."""
        most = kernel.PACKED if self.packed and type(cache[0]) is Paged else kernel.MOST
        return (x.dtype == self.dtype and x.shape[0] * x.shape[1] <= most and not torch.is_grad_enabled()
                and len({type(c) for c in cache}) == 1 and type(cache[0]) in (Cache, Paged)
                and all(c.k.dtype == self.dtype and c.k.is_contiguous() and c.v.is_contiguous()
                        and c.k.device.type == "cpu" for c in cache))

    def __call__(self, x: Float[Tensor, "B T D"], rope: Callable[[Tensor], Tensor], positions: Int[Tensor, "B T"],
                 cache: Sequence[Cache], fixed: bool = True) -> Float[Tensor, "B T D"]:
        """What the blocks and the norm make of embeddings `x`; keys and values go into the caches at `positions`.

        `rope(positions)` gives their angles [2, B, T, F]; `fixed` ones, which depend on nothing but the position, are
        computed once for all slots. IndexError for a position without a slot.
        """
        lib = kernel.library()
        batch, each, _ = x.shape
        table = cache[0].table.contiguous() if isinstance(cache[0], Paged) else None
        slots = cache[0].k.shape[2] if table is None else table.shape[1] * PAGE
        assert lib is not None and len(cache) == len(self.layers)
        positions = positions.contiguous()
        if not fixed:
            angles, places = rope(positions).expand(2, batch, each, -1).flatten(1, 2), torch.arange(batch * each)
        else:
            if self.angles is None or self.angles.shape[1] < slots:
                self.angles = rope(torch.arange(slots if table is None else -(-slots // GROWN) * GROWN)).contiguous()
            angles, places = self.angles, positions
        self.network.slots = slots
        self.network.table, self.network.width = (None, 0) if table is None else (table.data_ptr(), table.shape[1])
        whose = self.rows
        assert whose is None or len(whose.kept) == batch
        self.network.updates, self.network.rank = (ctypes.addressof(whose.table), whose.rank) if whose else (None, 0)
        for layer, kept in zip(self.layers, cache, strict=True):
            layer.keys, layer.values = kept.k.data_ptr(), kept.v.data_ptr()
        out = torch.empty(x.shape).copy_(x)
        wrong = lib.meristem_step(ctypes.byref(self.network), out.data_ptr(), positions.data_ptr(), angles.data_ptr(),
                                  places.data_ptr(), angles.shape[1], angles.shape[2], batch * each, each,
                                  torch.get_num_threads())
        if wrong >= 0:
            raise IndexError(f"position {int(positions.flatten()[wrong])} is beyond the cache's {slots} slots")
        return out.to(self.dtype)


@contextmanager
def decoding(module: nn.Module) -> Iterator[None]:
    """Within, `module` uses the native kernel for few rows, where there is one; it must not be trained meanwhile."""
    dtype = compute_type(module)
    linears = [m for m in module.modules() if isinstance(m, Linear | QuantisedLinear)]
    if dtype not in DTYPES or not linears or kernel.library() is None or any(m.native for m in linears):
        yield
        return
    whole = [m for m in module.modules() if isinstance(m, Fusible)]            # also a decoder inside one that sees
    try:
        for linear in linears:
            linear.native = linear.product(dtype)
        for decoder in whole:
            decoder.native = fused(decoder, dtype)
        yield
    finally:
        for linear in linears:
            linear.native = None
        for decoder in whole:
            decoder.native = None


def compute_type(module: nn.Module) -> torch.dtype | None:
    """The type in which a model computes on a CPU; None if it is elsewhere or its tables disagree."""
    tables = [m for m in module.modules() if isinstance(m, Embedding)]
    found = {t.compute or t.weight.dtype for t in tables}
    return found.pop() if len(found) == 1 and all(p.device.type == "cpu" for p in module.parameters()) else None


def fused(module: Fusible, dtype: torch.dtype) -> Step | None:
    """The model's blocks in one call, or None where a part is of another kind than the kernel knows."""
    def plain(block: Any) -> bool:
        attn, mlp = block.attn, block.mlp
        return (type(attn) is Attention and attn.reach.causal and attn.beside is None and not block._forward_pre_hooks
                and type(mlp) is GatedMLP and mlp.activation == "silu"
                and all(isinstance(n, RMSNorm) for n in (block.norm1, block.norm2))
                and all(isinstance(n, RMSNorm | nn.Identity) for n in (attn.q_norm, attn.k_norm))
                and all(isinstance(m, Linear | QuantisedLinear)
                        for m in (attn.q, attn.k, attn.v, attn.o, mlp.gate, mlp.up, mlp.down)))
    blocks = list(module.blocks)
    return Step(blocks, module.norm, dtype) if isinstance(module.norm, RMSNorm) and all(map(plain, blocks)) else None
