"""Weight-only quantisation: int8 by row or group, int4 by group, as replacements of Linear layers by name.

    quantise(model, bits=8)                                    # a scale for each output row
    quantise(model, bits=4, group=32, where=r"blocks\\..*")     # a scale for 32 columns: 4.5 bits a weight
    quantise(model, bits=4, group=32, affine=True)             # scale and offset: 5 bits, 7/15 of the error

A weight is kept as scale * q + low, nearest rounding (RTN, the baseline of Frantar et al. 2023,
https://arxiv.org/abs/2210.17323); scales and offsets are bf16, symmetric q lies in [-127, 127] or [-7, 7]. Activations
stay as they are. `weight` is the dequantised matrix, and the torch path, which is the reference, multiplies with it;
generation on a CPU reads the packed numbers through `nn.kernel`, whose panel layout they are kept in. In bf16 that
kernel takes 32 activations at a time as integers of 15 bits below their largest (bf16 has 8), and sums exactly.
"""
import math
import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError, nearest
from meristem.nn import kernel
from meristem.nn.linear import Linear

LANES = 16                              # output rows of a panel
LEVELS = {8: 127, 4: 7}                 # largest |q|
PAIRS = (0, 4, 1, 5, 2, 6, 3, 7)        # column of each of the 8 nibbles of a 32-bit word (kernel.cpp)


class QuantisedLinear(nn.Module):
    """y = x (scale * q + low)^T + b with q in `bits` bits; made from a Linear, never trained."""

    native: kernel.Product | None = None                       # set while generating (nn/decode.py)

    def __init__(self, rows: int, cols: int, *, bits: int, group: int = 0, affine: bool = False, bias: bool = False):
        super().__init__()
        group = group or cols
        if bits not in LEVELS:
            raise RequestError(f"weights can be quantised to 8 or 4 bits, not {bits}")
        if cols % group or group % 8:
            raise RequestError(f"a group of {group} columns must be a multiple of 8 and divide a weight's {cols}; "
                               "choose another group, or leave the layer out by its name")
        self.out_features, self.in_features, self.bits, self.group = rows, cols, bits, group
        panels = math.ceil(rows / LANES)
        shape, dtype = ((cols // 4, LANES, 4), torch.int8) if bits == 8 else ((cols // 8, LANES), torch.int32)
        self.packed = _still(torch.zeros(panels, *shape, dtype=dtype))
        self.scale = _still(torch.zeros(panels, cols // group, LANES, dtype=torch.bfloat16))
        self.low = _still(torch.zeros_like(self.scale)) if affine else None
        self.bias = _still(torch.zeros(rows)) if bias else None

    @classmethod
    def of(cls, layer: nn.Linear, *, bits: int, group: int = 0, affine: bool = False) -> "QuantisedLinear":
        """The nearest quantised layer; RequestError where the group does not divide its columns."""
        rows, cols = layer.weight.shape
        new = cls(rows, cols, bits=bits, group=group, affine=affine, bias=layer.bias is not None)
        w = F.pad(layer.weight.detach().float(), (0, 0, 0, -rows % LANES)).view(-1, LANES, cols // new.group, new.group)
        if affine:
            low, high = w.amin(-1), w.amax(-1)
            steps = 2**bits - 1
            scale = _upward((high - low) / steps)
            middle = low.add(scale * 2**(bits - 1)).bfloat16()              # where q = 0
            q = ((w - middle.float()[..., None]) / scale.clamp(min=1e-30)[..., None]).round()
            q = q.clamp(-2**(bits - 1), 2**(bits - 1) - 1)
        else:
            scale, middle = (w.abs().amax(-1) / LEVELS[bits]).bfloat16().float(), None
            q = (w / scale.clamp(min=1e-30)[..., None]).round().clamp(-LEVELS[bits], LEVELS[bits])
        new.scale.copy_(scale.transpose(1, 2))
        if new.low is not None and middle is not None:
            new.low.copy_(middle.transpose(1, 2))
        new.packed.copy_(_pack(q.flatten(2).to(torch.int32), bits))
        if new.bias is not None:
            new.bias.copy_(layer.bias.detach())
        return new

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The dequantised matrix, fp32: what this layer multiplies with."""
        q = _unpack(self.packed, self.bits).unflatten(2, (-1, self.group)).float()         # [panels, 16, groups, group]
        w = q * self.scale.float().transpose(1, 2)[..., None]
        if self.low is not None:
            w = w + self.low.float().transpose(1, 2)[..., None]
        return w.flatten(2).flatten(0, 1)[:self.out_features]

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        if self.native is not None and self.native.fits(x):
            return self.native(x)
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def product(self, dtype: torch.dtype) -> kernel.Product:
        """This layer for the native kernel."""
        return kernel.Product(self.packed, kernel.INT8 if self.bits == 8 else kernel.INT4, self.out_features,
                              self.in_features, dtype, bias=self.bias, scale=self.scale, low=self.low, group=self.group)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return (f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, "
                f"group={self.group}, affine={self.low is not None}, bias={self.bias is not None}")


def quantise(module: nn.Module, bits: int, group: int = 0, *, affine: bool = False, where: str = "") -> nn.Module:
    """Replace every Linear whose name matches the expression `where` ("" = all), in place; returns `module`.

    `group` columns share a scale (0: a whole row). RequestError when no layer matches or a group does not fit. A head
    tied to the embedding becomes a matrix of its own; the table stays as it is.
    """
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, Linear)}
    chosen = [name for name in linears if re.search(where, name)]
    if not chosen:
        raise RequestError(f"no Linear layer's name matches {where!r}; {nearest(where, linears)}")
    for name in chosen:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, QuantisedLinear.of(linears[name], bits=bits, group=group,
                                                                      affine=affine))
    return module


def _still(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _upward(scale: Tensor) -> Tensor:
    """The nearest bf16 number that is not below, so that an affine range is never cut."""
    near = scale.bfloat16()
    return torch.where(near.float() < scale, torch.nextafter(near, torch.full_like(near, float("inf"))), near).float()


def _pack(q: Tensor, bits: int) -> Tensor:
    """q [panels, 16, cols] -> the kernel's panels (kernel.cpp, top)."""
    panels, lanes, cols = q.shape
    if bits == 8:
        return q.view(panels, lanes, cols // 4, 4).transpose(1, 2).to(torch.int8)
    words = (q + 8).view(panels, lanes, cols // 8, 8)[..., PAIRS].to(torch.int64)
    packed = sum(words[..., j] << 4 * j for j in range(8))
    assert isinstance(packed, Tensor)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32).transpose(1, 2)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `_pack`, int32 [panels, 16, cols]."""
    if bits == 8:
        return packed.transpose(1, 2).flatten(2).to(torch.int32)
    words = packed.transpose(1, 2)[..., None] >> (4 * torch.arange(8, dtype=torch.int32, device=packed.device))
    back = torch.tensor(PAIRS, device=packed.device).argsort()
    return ((words & 15) - 8)[..., back].flatten(2)
