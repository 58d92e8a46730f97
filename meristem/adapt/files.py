"""Adapter folders in PEFT's format, both ways, whatever the method: adapter_config.json, adapter_model.safetensors.

    save(folder, module, family, base_hash, "runs/base")
    module = load(folder, module, family, base_hash)

`meristem.json` beside them keeps the family, the hash of the base (`hub.hf.identity`) and what PEFT's config has no
field for. What PEFT does not know (bottleneck) is written alike under a type of our own, which PEFT refuses.
"""
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from meristem.adapt.ahead import Ahead
from meristem.adapt.base import Names
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


def save(folder: Path, module: nn.Module, family: str, base_hash: str, base: str = "") -> None:
    """Write an adapter folder, whole or not at all; `base` is the base model's folder or Hub name."""
    entry = method_of(module)
    if entry is None:
        raise RequestError("this model has no adapter to save")
    config, tensors, note = entry.pack(module, Names(module.base if isinstance(module, Ahead) else module, family))
    config = {"peft_type": entry.TYPE, "task_type": _task(module), "base_model_name_or_path": base,
              "inference_mode": True, **config}
    with committed(folder) as tmp:
        write_json(tmp / CONFIG, config)
        write_json(tmp / NOTE, {"family": family, "base": base_hash, **note})
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
    tensors = {name.removeprefix(OUTER): t for name, t in tensors.items()}
    try:
        with torch.no_grad():
            made: nn.Module = entry.fill(module, config, tensors, Names(module, family), note)
        return made
    except RequestError as error:
        raise RequestError(f"{folder}: {error}") from None


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
