"""Bottleneck adapters: a small network with a residual path after the outputs of attention and of the MLP.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751, section 2.1: y + up(act(down(y))) before the residual addition,
2 m d + d + m numbers each for a width d and a bottleneck m; only after the MLP (Pfeiffer et al. 2021,
https://arxiv.org/abs/2005.00247) with `where=.*\\.down`. `up` starts at zero, so step 0 is the base exactly. A recipe
says `adapt.name=bottleneck`. It is no linear map: there is nothing to merge, the run folder keeps adapter/ alone.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.adapt import base
from meristem.adapt.base import Names
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of

TYPE = "BOTTLENECK"
PARTS = ("down", "down_bias", "up", "up_bias")


@dataclass(frozen=True)
class Config:
    """What `Part("bottleneck", {...})` may say."""

    size: int = 16                              # m
    where: str = r".*\.(o|down)"                # after which layers


class Bottleneck(base.Layer):
    """y = base(x), then y + up(gelu(down(y))); `down` is normal with deviation 0.01, `up` 0."""

    def __init__(self, layer: nn.Module, size: int, generator: torch.Generator | None = None):
        super().__init__(layer)
        assert isinstance(layer, base.LINEAR)
        width, device = layer.out_features, next(layer.parameters()).device
        self.down = nn.Parameter(torch.randn(size, width, generator=generator).mul_(0.01).to(device))
        self.down_bias = nn.Parameter(torch.zeros(size, device=device))
        self.up = nn.Parameter(torch.zeros(width, size, device=device))
        self.up_bias = nn.Parameter(torch.zeros(width, device=device))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        y = self.base(x)
        inner = F.gelu(F.linear(y, self.down.to(y.dtype), self.down_bias.to(y.dtype)))
        return y + F.linear(inner, self.up.to(y.dtype), self.up_bias.to(y.dtype))


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """Freeze `module` and put a bottleneck after the chosen layers, in place."""
    names = base.chosen(module, config.where)
    if config.size < 1:
        raise RequestError(f"size must be at least 1, not {config.size}")
    return _wrap(module, dict.fromkeys(names, config.size), seed)


def found(module: nn.Module) -> bool:
    """Whether the module has bottlenecks."""
    return any(isinstance(m, Bottleneck) for m in module.modules())


def merge(module: nn.Module) -> nn.Module:
    """Always a RequestError."""
    return base.merge_layers(module, Bottleneck)


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Keys and tensors under our own names: PEFT has no such method."""
    layers = base.layers(module, Bottleneck)
    return {}, {f"{n}.{part}": getattr(layer, part) for n, layer in layers.items() for part in PARTS}, {}


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """The inverse of `pack`, in place."""
    found = sorted({name.rpartition(".")[0] for name in tensors})
    if stray := [n for n in found if n not in names.linears]:
        raise RequestError(f"tensors of {stray[0]} belong to no layer of this model; "
                           f"{nearest(stray[0], names.linears)}")
    values, sizes = dict[str, dict[str, Tensor]](), dict[str, int]()
    for name in found:
        width = names.linears[name].out_features
        sizes[name] = size = tensors[f"{name}.down"].shape[0] if f"{name}.down" in tensors else 0
        shapes = ((size, width), (size,), (width, size), (width,))
        values[name] = {part: base.tensor(tensors, f"{name}.{part}", shape, "this model's layers")
                        for part, shape in zip(PARTS, shapes, strict=True)}
    base.free(module, sizes)
    _wrap(module, sizes, 0)
    for name, parts in values.items():
        module.get_submodule(name).load_state_dict(parts, strict=False)
    return module


def _wrap(module: nn.Module, sizes: Mapping[str, int], seed: int) -> nn.Module:
    module.requires_grad_(False)
    for name, size in sizes.items():
        generator = torch.Generator().manual_seed(seed_of(seed, "bottleneck", name))
        base.put(module, name, Bottleneck(module.get_submodule(name), size, generator))
    return module
