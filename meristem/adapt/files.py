"""Adapter folders in PEFT's format, both ways, whatever the method: adapter_config.json, adapter_model.safetensors.

    save(folder, module, family, base_hash, "runs/base")
    module = load(folder, module, family, base_hash)

Layers that were trained whole beside the adapter (`adapt.save`, a new head) are PEFT's modules_to_save.
`meristem.json` beside them keeps the family, the hash of the base (`hub.hf.identity`) and what PEFT's config has no
field for. What PEFT does not know (bottleneck) is written alike under a type of our own, which PEFT refuses.
"""
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meristem.adapt.ahead import Ahead
from meristem.adapt.base import Names, keep, kept, tensor
from meristem.core import registry
from meristem.core.errors import RequestError, nearest
from meristem.core.files import MANIFEST, committed, read_json, verify, write_json
from meristem.nn.attention import two_way

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "meristem.json"
OUTER = "base_model.model."             # before the name of every tensor inside a layer


def method_of(module: nn.Module) -> ModuleType | None:
    """The file of the method that a module carries, or None."""
    return next((entry for entry in map(_entry, registry.names("adapt")) if entry.found(module)), None)


def merge(module: nn.Module) -> nn.Module:
    """Plain weights in place of an adapter; the module itself where it has none. RequestError where none are equal."""
    entry = method_of(module)
    return module if entry is None else entry.merge(module)


def inside(module: nn.Module) -> nn.Module:
    """The network itself, where an adapter stands before it."""
    return module.base if isinstance(module, Ahead) else module


def save(folder: Path, module: nn.Module, family: str, base_hash: str, base: str = "",
         model: Mapping[str, Any] | None = None) -> None:
    """Write an adapter folder, whole or not at all; `base` is the base model's folder or Hub name, `model` the fields
    in which the network differs from it (another head)."""
    entry = method_of(module)
    if entry is None:
        raise RequestError("this model has no adapter to save")
    names = Names(inside(module), family)
    config, tensors, note = entry.pack(module, names)
    config = {"peft_type": entry.TYPE, "task_type": _task(module), "base_model_name_or_path": base,
              "inference_mode": True, **config}
    trained = {names.whole(name): layer for name, layer in kept(inside(module)).items()}
    if trained:
        config["modules_to_save"] = [name.rpartition(".")[2] for name in trained]
        tensors = {**tensors, **{f"{name}.{key}": value for name, layer in trained.items()
                                 for key, value in layer.state_dict().items()}}
    with committed(folder) as tmp:
        write_json(tmp / CONFIG, config)
        other = {"model": dict(model)} if model else {}
        write_json(tmp / NOTE, {"family": family, "base": base_hash, **note, **other})
        save_file({OUTER * ("." in name) + name: t.detach().float().contiguous().clone() for name, t in
                   tensors.items()}, tmp / WEIGHTS, metadata={"format": "pt"})


def base_of(folder: Path) -> str:
    """The folder or Hub name of the base model that an adapter's config names, or ""."""
    return str(_json(folder / CONFIG).get("base_model_name_or_path") or "")


def method(folder: Path) -> str:
    """The method of an adapter folder; RequestError names the nearest peft_type that is known."""
    kind, noted = str(_json(folder / CONFIG).get("peft_type")), _note(folder).get("method")
    types = {_entry(name).TYPE: name for name in registry.names("adapt")}
    if noted in types.values():
        return str(noted)
    if kind not in types:
        raise RequestError(f"{folder / CONFIG}: peft_type {kind!r} is not supported; {nearest(kind, types)}")
    return types[kind]


def load(folder: Path, module: nn.Module, family: str, base_hash: str) -> nn.Module:
    """`module` with the adapter in `folder`, ours or PEFT's; layers are wrapped in place.

    `base_hash` is `hub.hf.identity` of the module. RequestError: an adapter of another base (both hashes are named), a
    damaged file, a method or a setting that is not known, a tensor that does not fit.
    """
    entry, config, note, tensors = read(folder, base_hash)
    try:
        with torch.no_grad():
            names = Names(module, family)
            config, tensors, trained = _apart(config, tensors, names)
            made: nn.Module = entry.fill(module, config, tensors, names, note)
            for name, values in trained.items():
                layer = names.linears[name]
                for key, value in layer.state_dict().items():
                    value.copy_(tensor(values, key, tuple(value.shape), f"layer {name} of this model"))
                keep(inside(made), re.escape(name))
        return made
    except RequestError as error:
        raise RequestError(f"{folder}: {error}") from None


def read(folder: Path, base_hash: str) -> tuple[ModuleType, dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """The method of an adapter folder, PEFT's config, our note and the tensors, mapped from the file.

    RequestError as `load`.
    """
    if (folder / MANIFEST).exists() and (problem := verify(folder)):
        raise RequestError(f"{folder}: {problem}; fetch or train it again")
    config, note = _json(folder / CONFIG), _note(folder)
    if note.get("base", base_hash) != base_hash:
        raise RequestError(f"{folder} was trained on the base {note['base']}, this model is {base_hash}; "
                           f"load it on its own base ({base_of(folder) or 'which it does not name'})")
    entry = _entry(method(folder))
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise RequestError(f"{folder / WEIGHTS} is missing") from None
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{folder / WEIGHTS} is not a whole safetensors file ({error})") from None
    return entry, config, note, {name.removeprefix(OUTER): t for name, t in tensors.items()}


def differs(folder: Path) -> dict[str, Any]:
    """The fields in which the network of an adapter folder differs from its base: {"head": ..., "labels": ...}."""
    return _note(folder).get("model") or {}


def _apart(config: dict[str, Any], tensors: dict[str, Tensor],
           names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Config and tensors of the method alone, and those of layers that were trained whole, by our names."""
    words = config.get("modules_to_save") or []
    trained: dict[str, dict[str, Tensor]] = {}
    for place in names.places.values():
        if place.theirs.rpartition(".")[2] in words or place.theirs in words:
            found = {key: tensors[n] for key in ("weight", "bias") if (n := f"{place.theirs}.{key}") in tensors}
            if found:
                names.whole(place.ours[0])
                trained[place.ours[0]] = found
                tensors = {n: t for n, t in tensors.items() if n.rpartition(".")[0] != place.theirs}
    return {key: value for key, value in config.items() if key != "modules_to_save"}, tensors, trained


def _entry(name: str) -> ModuleType:
    return registry.load("adapt", name)


def _task(module: nn.Module) -> str | None:
    """PEFT's task_type: a decoder of text, or nothing in particular."""
    text = "vocab" in vars(module.config)
    return "CAUSAL_LM" if text and not two_way(module) else None


def _note(folder: Path) -> dict[str, Any]:
    return _json(folder / NOTE) if (folder / NOTE).exists() else {}


def _json(path: Path) -> dict[str, Any]:
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise RequestError(f"{path} is not a mapping of settings")
    return tree
