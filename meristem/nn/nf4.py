"""NF4: four bits a weight at the quantiles of a normal distribution, with doubly quantised scales, for QLoRA's base.

Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314: section 3 "4-bit NormalFloat", appendix E (the table),
section 3 "Double Quantization". The same sixteen numbers as bitsandbytes', from offset 0.9677083.

    layer = NF4Linear.of(linear)                # 64 weights share a scale: 4.127 bits a weight, 4.5 with double=False

A block of 64 weights, in the order of the flattened matrix, is kept as indices into the table and its largest |w|; with
double quantisation these scales, less their mean, are 8-bit integers of which 256 share one fp32 scale (32/64 = 0.5
bits a weight become 8/64 + 32/(64 x 256) = 0.127). The paper's 8 bits are a float type; evenly spaced integers are at
least as near, for scales lie within a factor of about two of each other. Nothing is trained here; the gradient with
respect to the input makes the matrix anew instead of keeping it, so no whole copy of a weight outlives its product.
"""
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Linear

OFFSET = 0.9677083                      # bitsandbytes, functional.py: create_normal_map
BLOCK, OUTER = 64, 256                  # weights that share a scale; scales that share one of their own


def codebook() -> Float[Tensor, "16"]:
    """The sixteen values, rising from -1 over 0 to 1: seven quantiles below 0 and eight above, over the largest.

    Rounded to fp32 where bitsandbytes rounds: points, quantiles and quotients; so they are equal to the bit.
    """
    def quantiles(count: int) -> Tensor:
        return torch.special.ndtri(torch.linspace(OFFSET, 0.5, count + 1)[:-1].double()).float()
    values = torch.cat([-quantiles(7), torch.zeros(1), quantiles(8).flip(0)])
    return values / values.max()


class NF4Linear(nn.Module):
    """y = x W^T + b with W in 4 bits; made from a Linear, never trained."""

    def __init__(self, rows: int, cols: int, *, bias: bool = False, double: bool = True):
        super().__init__()
        self.out_features, self.in_features, self.nested = rows, cols, double
        blocks = -(-rows * cols // BLOCK)
        self.packed = _still(torch.zeros(blocks * BLOCK // 2, dtype=torch.uint8))
        if double:
            self.scale = _still(torch.zeros(blocks, dtype=torch.int8))
            self.outer = _still(torch.zeros(-(-blocks // OUTER)))
            self.mean = _still(torch.zeros(()))
        else:
            self.scale = _still(torch.zeros(blocks))
        self.bias = _still(torch.zeros(rows)) if bias else None
        table = codebook()
        self.table: Tensor                                     # the two weights of each byte, the high half first
        self.register_buffer("table", torch.cartesian_prod(table, table), persistent=False)

    @classmethod
    def of(cls, layer: nn.Linear, *, double: bool = True) -> "NF4Linear":
        """The nearest NF4 layer: each weight becomes the nearest value of its block's table."""
        weight = layer.weight.detach().float()
        new = cls(*weight.shape, bias=layer.bias is not None, double=double).to(weight.device)
        flat = F.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
        scale = flat.abs().amax(1)
        if double:
            new.mean.copy_(scale.mean())
            rest = F.pad(scale - new.mean, (0, -len(scale) % OUTER)).view(-1, OUTER)
            new.outer.copy_(rest.abs().amax(1) / 127)
            new.scale.copy_((rest / new.outer.clamp(min=1e-30)[:, None]).round().flatten()[:len(scale)])
        else:
            new.scale.copy_(scale)
        values = codebook().to(weight.device)
        middles = (values[1:] + values[:-1]) / 2
        index = torch.bucketize(flat / scale.clamp(min=1e-30)[:, None], middles).to(torch.uint8).view(-1, 2)
        new.packed.copy_(index[:, 0] << 4 | index[:, 1])
        if new.bias is not None:
            new.bias.copy_(layer.bias.detach())
        return new

    def scales(self) -> Float[Tensor, "N"]:
        """The largest |w| of each block, fp32."""
        if not self.nested:
            return self.scale
        return self.scale * self.outer.repeat_interleave(OUTER)[:len(self.scale)] + self.mean

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The dequantised matrix, fp32: what this layer multiplies with."""
        return self.whole(torch.float32)

    def whole(self, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """The dequantised matrix, rounded to `dtype` once."""
        return dequantised(self.packed, self.scales(), self.table, self.out_features, self.in_features, dtype)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        y = Product.apply(x, self.packed, self.scales(), self.table, self.out_features)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def plain(self) -> nn.Linear:
        """A Linear layer with the dequantised weight."""
        made = Linear(self.in_features, self.out_features, self.bias is not None)
        with torch.no_grad():
            made.weight.copy_(self.weight)
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"in_features={self.in_features}, out_features={self.out_features}, double={self.nested}"


class Product(torch.autograd.Function):
    """x W^T whose backward pass makes W anew."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, packed: Tensor, scales: Tensor, table: Tensor,
                rows: int) -> Tensor:
        """[..., I] -> [..., rows]."""
        ctx.save_for_backward(packed, scales, table)
        ctx.shape = rows, x.shape[-1]                          # type: ignore[attr-defined]
        return F.linear(x, dequantised(packed, scales, table, rows, x.shape[-1], x.dtype))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx,
                 *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient with respect to x."""
        packed, scales, table = ctx.saved_tensors              # type: ignore[attr-defined]
        grad = grads[0]
        rows, cols = ctx.shape                                 # type: ignore[attr-defined]
        return grad @ dequantised(packed, scales, table, rows, cols, grad.dtype), None, None, None, None


def dequantised(packed: UInt8[Tensor, "P"], scales: Float[Tensor, "N"], table: Float[Tensor, "256 2"], rows: int,
                cols: int, dtype: torch.dtype) -> Float[Tensor, "O I"]:
    """table[index] * scale of the block, rounded to `dtype`."""
    blocks = F.embedding(packed.int(), table).view(-1, BLOCK) * scales[:, None]
    return blocks.flatten()[:rows * cols].view(rows, cols).to(dtype)


def _still(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
