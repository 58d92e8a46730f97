"""Adaptation in a run: add a method's numbers to the base, keep them and what they make, open them again.

    module = attach(run.adapt, module, seed, codec)            # Part("lora", {"rank": 16}) -> the adapted module
    loaded = opened("runs/fill")                               # model/, or where there is none adapter/ on its base

A method whose effect plain weights can have (lora, qlora, ia3) leaves `adapter/` and the merged `model/`; the others
(prefix, prompt, gated_prefix, bottleneck) leave `adapter/` alone, which every verb takes in place of a model.
"""
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from meristem.adapt import files
from meristem.adapt.base import Layer, keep, layers, linears
from meristem.codecs.base import Codec
from meristem.core import registry
from meristem.core.config import Part, build
from meristem.core.errors import RequestError
from meristem.core.files import digest, digest_bytes, read_json
from meristem.core.names import tied
from meristem.hub import hf
from meristem.hub.cache import adapter_of
from meristem.nn.linear import Linear


def attach(part: Part, module: nn.Module, seed: int, codec: Codec, save: str = "") -> nn.Module:
    """`module` frozen, with what the method trains; RequestError lists unknown methods and fields with the nearest.

    The field `save`, of any method, is a regular expression for layers that are trained whole and saved beside the
    adapter; where the run gives the base a new head, that one (`save`).
    """
    entry = registry.load("adapt", part.name)
    config = build(entry.Config, Part(part.name, {k: v for k, v in part.fields.items() if k != "save"}))
    made: nn.Module = entry.attach(module, config, seed, codec)
    if where := part.fields.get("save", save):
        keep(files.inside(made), str(where))
    return made


def fresh(module: nn.Module, known: Collection[str]) -> str:
    """A regular expression for the layers of a new head: `head`, and those without weights in the base, whose names are
    `known`; "" where the head is tied to the embedding."""
    shared = {name for pair in tied(module).items() for name in pair}
    names = [name for name in linears(module) if name == "head" or f"{name}.weight" not in known]
    return "|".join(re.escape(name) for name in names if f"{name}.weight" not in shared)


def lean(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen matrices inside adapters in the type that they are multiplied in, in place.

    The products are the same to the bit, the matrix takes half the memory and is not cast again in every step. The
    whole numbers are read again from the base's folder when the adapter is merged. DoRA measures rows: left alone.
    """
    for layer in layers(module, Layer).values():
        if isinstance(layer.base, Linear) and layer._parameters.get("magnitude") is None:
            layer.base.weight = nn.Parameter(layer.base.weight.detach().to(dtype), requires_grad=False)


def again(base: str, adapter: Path) -> nn.Module:
    """The base in fp32, read anew, with the adapter of a folder."""
    loaded = hf.load(base)
    identity = hf.identity(loaded.family, loaded.module)
    return files.load(adapter, loaded.module.float(), loaded.family, identity)


def merged(module: nn.Module) -> nn.Module | None:
    """The module with plain weights in place of its adapter, or None where no plain weights compute the same."""
    try:
        return files.merge(module)
    except RequestError:
        return None


def opened(path: str | Path) -> hf.Loaded:
    """A model folder, a run folder, an adapter folder (its base with the adapter in it) or a Hub id.

    An adapter's base is looked for from its folder upwards, then from the working folder, then as a Hub id.
    RequestError, one line, for whatever is wrong.
    """
    adapter = adapter_of(Path(path).expanduser())
    if adapter is None:
        return hf.load(path)
    base = files.base_of(adapter)
    if not base:
        raise RequestError(f"{adapter / files.CONFIG} does not name its base model; load the base, then call "
                           f"adapt.files.load({str(adapter)!r}, ...)")
    loaded = hf.load(base, near=adapter)
    identity, network = hf.identity(loaded.family, loaded.module), loaded.module
    if fields := files.differs(adapter):
        from meristem.train.run import other_head  # it asks this file to attach and merge
        _, network = other_head(loaded.family, loaded.config, network, fields)
    module = files.load(adapter, network, loaded.family, identity).eval()
    return replace(loaded, module=module, config=module.config)


def identity(path: str | Path, loaded: hf.Loaded) -> str:
    """The hash of what `opened(path)` computes with: `hf.identity`, or that of a base and the adapter on it."""
    adapter = adapter_of(Path(path).expanduser())
    return hf.identity(loaded.family, loaded.module) if adapter is None else of_adapter(adapter)


def of_adapter(adapter: Path) -> str:
    """The hash of an adapter's numbers and of the base that it notes."""
    note = adapter / files.NOTE
    return digest_bytes(str(read_json(note).get("base")) if note.exists() else "", digest(adapter / files.WEIGHTS))
