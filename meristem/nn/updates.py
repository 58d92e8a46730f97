"""Low-rank updates y + scale B A x in the native kernel, every row of a batch with the adapter of its own.

    one = Updates([(a, b, scale), None, ...], torch.bfloat16)  # of all adapted layers, by their slots
    rows = Rows([one, other, None])                            # of a batch of three
    rows.add(x, y, slot=0)                                     # y + scale B A x, or None without the kernel

Chen et al. 2023 (Punica), https://arxiv.org/abs/2310.18547, section 4: what each row reads beside the base is its A and
B, so they lie in the compute type, in the order in which one pass reads them. `nn.decode.Step` takes `rows`, too: then
all blocks with all updates are one call. Reference: F.linear(F.linear(x, a), b) in x's type (tests/nn/test_updates.py).
"""
import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meristem.nn import kernel

PARTS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")     # slots of a `Fusible`'s block
PANEL = 16                              # outputs of an update that lie side by side


class Update(ctypes.Structure):
    """scale B A beside one weight, as kernel.cpp sees it."""

    _fields_ = [("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("rank", ctypes.c_int64), ("scale", ctypes.c_float)]


class Updates:
    """One adapter's low-rank updates in `dtype`, as the kernel reads them: in the order of its layers, side by side.

    B lies in panels of 16 outputs, in bf16 two columns together, so that no sum crosses lanes.
    """

    def __init__(self, updates: Sequence[tuple[Float[Tensor, "R I"], Float[Tensor, "O R"], float] | None],
                 dtype: torch.dtype):
        step = 2 if dtype == torch.bfloat16 else 1
        self.table, self.rank, at = (Update * len(updates))(), 0, 0
        shapes = [(_up(len(u[0]), step), u[0].shape[1], _up(len(u[1]), PANEL)) if u else (0, 0, 0) for u in updates]
        self.kept = torch.empty(sum(rank * (inputs + outputs) for rank, inputs, outputs in shapes), dtype=dtype)
        for entry, found, (rank, inputs, outputs) in zip(self.table, updates, shapes, strict=True):
            if found is None:
                continue
            a, b, entry.scale = found
            entry.rank, self.rank, more = rank, max(self.rank, rank), rank - len(a)
            first, second = self.kept[at:at + rank * (inputs + outputs)].split([rank * inputs, rank * outputs])
            first.view(rank, inputs).copy_(F.pad(a, (0, 0, 0, more)) if more else a)
            b = F.pad(b, (0, more, 0, outputs - len(b))) if more or outputs > len(b) else b
            second.view(-1, rank // step, PANEL, step).copy_(b.view(-1, PANEL, rank // step, step).transpose(1, 2))
            entry.a, entry.b = first.data_ptr(), second.data_ptr()
            at += rank * (inputs + outputs)


class Rows:
    """Whose updates each row of a batch has (None: nobody's)."""

    def __init__(self, rows: Sequence[Updates | None]):
        self.kept, self.rank = list(rows), max((u.rank for u in rows if u), default=0)
        self.table = (ctypes.c_void_p * len(rows))(*(ctypes.addressof(u.table) if u else None for u in rows))

    def add(self, x: Float[Tensor, "B *T I"], y: Float[Tensor, "B *T O"], slot: int) -> Float[Tensor, "B *T O"] | None:
        """y + scale B A x, row by row with the update at `slot` of its adapter; None without the kernel."""
        fits = x.device.type == "cpu" and x.dtype in kernel.KINDS and not torch.is_grad_enabled()
        lib = kernel.library() if fits else None
        if lib is None:
            return None
        count, each = x[..., 0].numel(), x[0, ..., 0].numel()
        wide, out = x.detach().float().contiguous(), torch.empty(y.shape).copy_(y)
        lib.meristem_low_rank(wide.data_ptr(), out.data_ptr(), count, each, x.shape[-1], y.shape[-1], self.table, slot,
                              x.dtype == torch.bfloat16, torch.get_num_threads())
        return out.to(y.dtype)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
