"""Linear and Embedding layers whose arithmetic follows the data: fp32 master weights, any compute type.

The type of the numbers is decided once, where ids enter the network (`Embedding.compute`); every later layer casts its
weight to the type of its input. There is no autocast state, so the same forward runs in training, scoring and serving.
`compute_in(model, torch.bfloat16)` switches a whole model; weights and optimizer stay fp32.
"""
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn import kernel


class Linear(nn.Linear):
    """y = x W^T + b in the type of x."""

    native: kernel.Product | None = None                       # set while generating on a CPU (nn/decode.py)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features]."""
        if self.native is not None and self.native.fits(x):
            return self.native(x)
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def product(self, dtype: torch.dtype) -> kernel.Product:
        """This layer for the native kernel, computing in `dtype`."""
        weight = self.weight.detach().to(dtype).contiguous()
        return kernel.Product(weight, kernel.KINDS[dtype], self.out_features, self.in_features, dtype, bias=self.bias)


class Entrance:
    """Where numbers enter a network; `compute` is the type they enter it in (None: their own).

    Pictures lie between -1 and 1; `levels` are mean and deviation of each channel, of numbers from 0 to 1, by which
    published weights want them normalised (None: 0.5 and 0.5, which is as they are).
    """

    compute: torch.dtype | None = None
    levels: tuple[tuple[float, ...], tuple[float, ...]] | None = None


class Embedding(nn.Embedding, Entrance):
    """A table of vectors."""

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """ids -> vectors of type `compute`."""
        vectors = super().forward(ids)
        return vectors if self.compute is None else vectors.to(self.compute)


def compute_in(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Set the type in which `module` computes, wherever ids or pixels enter it; returns `module`."""
    for layer in module.modules():
        if isinstance(layer, Entrance):
            layer.compute = dtype
    return module
