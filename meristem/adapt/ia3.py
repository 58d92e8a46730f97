"""IA3: keys, values and the inner features of an MLP are multiplied by learned vectors, at first all ones.

Liu et al. 2022, https://arxiv.org/abs/2205.05638, section 3.3: softmax(Q (l_k * K)^T / sqrt d) (l_v * V), and
(l_ff * act(x W1)) W2. A recipe says `adapt.name=ia3`. Files are PEFT's, both ways; a vector is a row's or a column's
factor of a weight, so merging is exact to rounding.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.adapt import base
from meristem.adapt.base import Names
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError, nearest

TYPE = "IA3"
END = "ia3_l"
KNOWN = {"peft_type", "task_type", "base_model_name_or_path", "target_modules", "feedforward_modules", "inference_mode",
         "auto_mapping", "revision", "peft_version", "init_ia3_weights", "fan_in_fan_out", "exclude_modules"}


@dataclass(frozen=True)
class Config:
    """What `Part("ia3", {...})` may say: regular expressions for whole names of layers."""

    where: str = r".*\.(k|v)"                   # their outputs are multiplied
    feedforward: str = r".*\.down"              # their inputs are; "" = none


class IA3(base.Layer):
    """base(x) * l, or base(x * l) where `inner`."""

    def __init__(self, layer: nn.Module, inner: bool):
        super().__init__(layer)
        assert isinstance(layer, base.LINEAR)
        size = layer.in_features if inner else layer.out_features
        self.inner, self.l = inner, nn.Parameter(torch.ones(size, device=next(layer.parameters()).device))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        return self.base(x * self.l.to(x.dtype)) if self.inner else self.base(x) * self.l.to(x.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with its rows (and bias) or columns multiplied, in place."""
        if not isinstance(self.base, nn.Linear):
            raise RequestError("a vector cannot be merged into quantised weights; load the unquantised base")
        self.base.weight.mul_(self.l if self.inner else self.l[:, None])
        if self.base.bias is not None and not self.inner:
            self.base.bias.mul_(self.l)
        return self.base


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """Freeze `module` and put vectors around the chosen layers, in place."""
    outer = base.chosen(module, config.where)
    named = config.feedforward and config.feedforward != Config.feedforward    # a mixture of experts has no such layer
    usual = [n for n in base.linears(module) if re.fullmatch(Config.feedforward, n)]
    inner = base.chosen(module, config.feedforward) if named else usual if config.feedforward else []
    if both := set(outer) & set(inner):
        raise RequestError(f"{sorted(both)[0]} matches both where and feedforward; it can have one vector")
    return _wrap(module, {**dict.fromkeys(outer, False), **dict.fromkeys(inner, True)})


def found(module: nn.Module) -> bool:
    """Whether the module has such vectors."""
    return any(isinstance(m, IA3) for m in module.modules())


def merge(module: nn.Module) -> nn.Module:
    """Multiply every vector into its layer and put the plain layers back, in place."""
    return base.merge_layers(module, IA3)


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """PEFT's keys and tensors: [out, 1] or, before a layer, [1, in]; ones for a layer that is fused with others."""
    layers, tensors, inner = base.layers(module, IA3), dict[str, Tensor](), list[str]()
    for place in names.taken(layers):
        first = layers[next(n for n in place.ours if n in layers)]
        if first.inner:
            inner.append(place.theirs)
            tensors[f"{place.theirs}.{END}"] = first.l[None]
            continue
        vectors = {n: layers[n].l if n in layers else torch.ones(size)
                   for n, size in zip(place.ours, place.sizes, strict=True)}
        tensors[f"{place.theirs}.{END}"] = place.join(vectors)[:, None]
    config = {"target_modules": names.targets(layers), "fan_in_fan_out": any(p.turned for p in names.taken(layers)),
              "feedforward_modules": names.targets([n for n, layer in layers.items() if layer.inner]) if inner else []}
    return config, tensors, {}


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """Wrap `module` by PEFT's tensors, in place; their shape says whether a vector stands before or after a layer."""
    if odd := {k: v for k, v in config.items() if k not in KNOWN and v not in (None, False, {}, [])}:
        raise RequestError(f"{', '.join(f'{k} = {v!r}' for k, v in odd.items())} is not supported of IA3")
    known = {f"{stem}.{END}": place for stem, place in names.stems()}
    if stray := [n for n in tensors if n not in known]:
        raise RequestError(f"tensor {stray[0]} belongs to no layer of this model; {nearest(stray[0], known)}")
    vectors, inner = dict[str, Tensor](), dict[str, bool]()
    for name in tensors:
        place = known[name]
        before = tensors[name].shape[:1] == (1,)
        shape = (1, names.linears[place.ours[0]].in_features) if before else (sum(place.sizes), 1)
        vector = base.tensor(tensors, name, shape, "this model's layers").flatten()
        vectors |= dict.fromkeys(place.ours, vector) if before else place.split(vector)
        inner |= dict.fromkeys(place.ours, before)
    base.free(module, inner)
    _wrap(module, inner)
    for name, layer in base.layers(module, IA3).items():
        layer.l.copy_(vectors[name])
    return module


def _wrap(module: nn.Module, inner: Mapping[str, bool]) -> nn.Module:
    module.requires_grad_(False)
    for name, before in inner.items():
        base.put(module, name, IA3(module.get_submodule(name), before))
    return module
