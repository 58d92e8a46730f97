"""QLoRA: LoRA around a base whose matrices are kept in four bits (NF4, doubly quantised scales).

Dettmers et al. 2023, https://arxiv.org/abs/2305.14314; the layer is `nn.nf4`. A recipe says `adapt.name=qlora`:

    module = attach(module, Config(rank=16, alpha=32.0), seed=0)

Step 0 is the quantised base. The update is stored as PEFT's LoRA; meristem.json says that the base has to be quantised
first, and `adapt.files.load` does so, for the base that is named is the whole one. Merging gives plain weights: the
dequantised matrix plus the update. The optimizer's state is that of A and B alone, so nothing of it needs paging.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from meristem.adapt import base, lora
from meristem.adapt.base import EVERYWHERE, Names
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.nn.nf4 import NF4Linear

TYPE = "QLORA"


@dataclass(frozen=True)
class Config(lora.Config):
    """What `Part("qlora", {...})` may say: LoRA's fields, and how the base is kept."""

    quantised: str = EVERYWHERE         # which layers are kept in NF4, a regular expression for whole names
    double: bool = True                 # scales in 8 bits


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """Quantise, freeze, add A and B, in place."""
    quantise(module, config.quantised, config.double)
    return lora.attach(module, config, seed, codec)


def quantise(module: nn.Module, where: str = EVERYWHERE, double: bool = True) -> nn.Module:
    """NF4 in place of every plain Linear layer whose name matches, in place."""
    for name in base.chosen(module, where):
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise RequestError(f"{name} is quantised already; load the unquantised base")
        base.put(module, name, NF4Linear.of(layer, double=double))
    return module


def found(module: nn.Module) -> bool:
    """Whether LoRA layers stand around NF4 layers."""
    return any(isinstance(layer.base, NF4Linear) for layer in base.layers(module, lora.LoRA).values())


def merge(module: nn.Module) -> nn.Module:
    """Plain layers with the dequantised weights plus the updates, in place; all weights are trainable again."""
    lora.merge(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, NF4Linear):
            base.put(module, name, layer.plain())
    return module.requires_grad_(True)


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """LoRA's files, and which layers were quantised."""
    config, tensors, _ = lora.pack(module, names)
    layers = {n: m for n, m in names.linears.items() if isinstance(m, NF4Linear)}
    double = all(m.nested for m in layers.values())
    note = {"method": "qlora", "quantised": sorted(layers), "double": double}
    return {**config, "peft_type": lora.TYPE}, tensors, note


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """Quantise the named layers, then LoRA's `fill`."""
    listed = note.get("quantised")
    if not isinstance(listed, list) or not set(listed) <= names.linears.keys():
        raise RequestError("meristem.json names quantised layers that this model does not have")
    quantise(module, "|".join(re.escape(str(n)) for n in listed), bool(note.get("double", True)))
    return lora.fill(module, config, tensors, names, note)
