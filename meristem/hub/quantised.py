"""Quantised weights in a model folder: int8 and int4 layers (nn/quantise.py) as they lie in memory.

In place of `NAME.weight` the safetensors hold `NAME.packed`, `NAME.scale` and, where it has offsets, `NAME.low`;
config.json says so:

    "quantization_config": {"quant_method": "meristem",
                            "layers": {"lm_head": {"bits": 4, "group": 32, "affine": false}, ...}}

so that other programs refuse the folder instead of misreading it. Folders quantised by other methods are refused here.
`hub.hf` calls `split` when it saves and `Packed` when it loads.
"""
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from meristem.core.errors import RequestError, nearest
from meristem.core.names import tied
from meristem.nn.linear import Linear
from meristem.nn.quantise import QuantisedLinear

KEY, METHOD = "quantization_config", "meristem"
PARTS = ("packed", "scale", "low")
FIELDS = {"bits": int, "group": int, "affine": bool}


def split(entry: ModuleType, config: Any, module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The module's tensors under their Hugging Face names, and what config.json says of quantised ones ({}: none)."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantisedLinear)}
    if not layers:
        return entry.HF.export(module), {}
    packed = {f"{name}.{part}" for name in layers for part in PARTS}
    with torch.device("meta"):
        plain = entry.Model(config)                            # the same names with whole weights, for the map
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if n not in packed}, strict=False, assign=True)
    tensors, listed = entry.HF.export(plain), {}
    for name, layer in layers.items():
        theirs = _theirs(entry, plain, name)
        if theirs is None:
            raise RequestError(f"layer {name} has no tensor of its own in the folder's format, so it cannot be saved "
                               "quantised; leave it out by its name (quantise(..., where=...))")
        tensors.pop(f"{theirs}.weight", None)                  # absent where it was tied
        tensors |= {f"{theirs}.{part}": t.detach() for part in PARTS if (t := getattr(layer, part)) is not None}
        listed[theirs] = {"bits": layer.bits, "group": layer.group, "affine": layer.low is not None}
    return tensors, {KEY: {"quant_method": METHOD, "layers": listed}}


def _theirs(entry: ModuleType, module: nn.Module, layer: str) -> str | None:
    """The layer's Hugging Face name; None where it is fused with others or turned."""
    try:
        found: str = entry.HF.of(module).theirs(f"{layer}.weight")
    except RequestError:
        return None
    return found.removesuffix(".weight")


class Packed(Mapping[str, Tensor]):
    """A folder's tensors as if every layer were whole; `fill` puts the quantised layers into the module.

    RequestError for another method, a layer that the model does not have, or tensors that do not fit.
    """

    def __init__(self, tensors: Mapping[str, Tensor], said: Any, entry: ModuleType, module: nn.Module, source: Path):
        self.tensors, self.module, self.source = tensors, module, source
        if not isinstance(said, dict) or said.get("quant_method") != METHOD:
            method = said.get("quant_method") if isinstance(said, dict) else said
            raise RequestError(f"{source}: weights quantised by {method!r} are not read (only {METHOD!r}); "
                               "load the unquantised checkpoint instead")
        names = {n: m for n, m in module.named_modules() if isinstance(m, Linear)}
        listed = said.get("layers")
        if not isinstance(listed, dict) or not listed:
            raise RequestError(f"{source}: {KEY} lists no layers")
        known = {t: n for n in names if (t := _theirs(entry, module, n)) is not None}
        self.layers: dict[str, tuple[str, QuantisedLinear]] = {}
        for theirs, fields in listed.items():
            if theirs not in known:
                raise RequestError(f"{source}: {KEY} names a layer {theirs!r}; {nearest(theirs, known)}")
            if not isinstance(fields, dict) or {k: type(v) for k, v in fields.items()} != FIELDS:
                raise RequestError(f"{source}: {KEY} of {theirs} must state bits and group, whole numbers, and affine")
            plain = names[known[theirs]]
            with torch.device("meta"):
                layer = QuantisedLinear(plain.out_features, plain.in_features, **fields, bias=plain.bias is not None)
            self.layers[theirs] = known[theirs], layer
        second = tied(module)                                  # a quantised head is tied no longer
        self.whole = {f"{theirs}.weight": layer for theirs, (name, layer) in self.layers.items()
                      if f"{name}.weight" not in second}
        self.parts = {f"{theirs}.{part}" for theirs in self.layers for part in PARTS}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.whole:
            layer = self.whole[name]
            return torch.empty(layer.out_features, layer.in_features, device="meta")
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self.tensors if name not in self.parts)
        yield from (name for name in self.whole if name not in self.tensors)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.whole or (name in self.tensors and name not in self.parts)

    def fill(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the layers in the module; `state` with their packed tensors in place of whole weights."""
        state = dict(state)
        for theirs, (name, layer) in self.layers.items():
            state.pop(f"{name}.weight", None)
            for part, like in layer.named_parameters():
                if part == "bias":
                    continue
                where = f"{theirs}.{part}"
                if where not in self.tensors:
                    raise RequestError(f"{self.source}: the folder holds no tensor {where}, "
                                       f"though {KEY} names its layer")
                tensor = self.tensors[where]
                if tensor.shape != like.shape or tensor.dtype != like.dtype:
                    raise RequestError(f"{self.source}: tensor {where} is {list(tensor.shape)} of {tensor.dtype}, "
                                       f"{KEY} asks for {list(like.shape)} of {like.dtype}")
                state[f"{name}.{part}"] = tensor
            parent, _, last = name.rpartition(".")
            setattr(self.module.get_submodule(parent), last, layer)
        return state
