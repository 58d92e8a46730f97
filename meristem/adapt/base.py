"""What every way of adapting shares: finding layers by name, putting others in their place, PEFT's two files.

A method is one file of this folder with `Config` (what `Part(name, {...})` may say), `TYPE` (its peft_type), and

    attach(module, config, seed, codec) -> module     # freeze the model, add what is trained
    found(module) -> bool                              # whether the module carries this method
    pack(module, names) -> (config keys, tensors)      # its part of the two files
    fill(module, config, tensors, names) -> module     # the same, read
    merge(module) -> module                            # RequestError where no plain weights compute the same

`adapt.files` writes and reads the folders, `adapt.combine` adds adapters up, `adapt.bank` swaps them.
"""
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.errors import RequestError, nearest
from meristem.core.names import tied
from meristem.nn.nf4 import NF4Linear
from meristem.nn.quantise import QuantisedLinear

EVERYWHERE = r".*\.(q|k|v|o|gate|up|down)"      # every matrix of a block: better than q and v alone (QLoRA, section 4)
LINEAR = (nn.Linear, QuantisedLinear, NF4Linear)
L = TypeVar("L", bound="Layer")


class Layer(nn.Module):
    """A linear layer `base`, frozen, and what a method adds around it."""

    def __init__(self, base: nn.Module):
        super().__init__()
        assert isinstance(base, LINEAR)
        self.base = base

    def merged(self) -> nn.Module:
        """A plain layer that computes the same; RequestError where there is none."""
        raise RequestError("this adapter is no linear map, so no plain weights compute what it does; "
                           "keep it beside its base")


def linears(module: nn.Module) -> dict[str, Any]:
    """Every linear layer by the name it has without adapters."""
    inside = {id(m) for layer in layers(module, Layer).values() for part in layer.children() if part is not layer.base
              for m in part.modules()}
    return {name.removesuffix(".base"): m for name, m in module.named_modules()
            if isinstance(m, LINEAR) and id(m) not in inside}


def layers(module: nn.Module, kind: type[L]) -> dict[str, L]:
    """Every adapted layer of a kind by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, kind)}


def chosen(module: nn.Module, where: str) -> list[str]:
    """Names of the linear layers that `where` matches as a whole.

    RequestError: no regular expression, or one that finds nothing (with the nearest name), a layer that is tied to
    another, or a module that is adapted already.
    """
    known = linears(module)
    try:
        names = [name for name in known if re.fullmatch(where, name)]
    except re.error as error:
        raise RequestError(f"{where!r} is not a regular expression: {error}") from None
    if not names:
        raise RequestError(f"no Linear layer's name matches {where!r}; {nearest(where, known)}")
    free(module, names)
    return names


def free(module: nn.Module, names: Iterable[str]) -> None:
    """RequestError where one of these layers cannot be adapted: tied to another, or adapted already."""
    if kinds := [type(m).__name__ for m in module.modules() if isinstance(m, Layer)]:
        raise RequestError(f"this model already has a {kinds[0]} adapter; merge it first")
    shared = {n for pair in tied(module).items() for n in pair}
    for name in names:
        if f"{name}.weight" in shared:
            raise RequestError(f"{name} shares its weight with another layer, so it cannot have an adapter of its own; "
                               "leave it out of where")


def keep(module: nn.Module, where: str) -> None:
    """Train the linear layers that `where` matches as they are, beside an adapter, and save them with it (PEFT's
    modules_to_save): a new head. RequestError: no such layer, one that is tied to another, or has an adapter."""
    known, adapted, shared = linears(module), layers(module, Layer), {n for pair in tied(module).items() for n in pair}
    names = [name for name in known if re.fullmatch(where, name)]
    if not names:
        raise RequestError(f"no Linear layer's name matches save={where!r}; {nearest(where, known)}")
    for name in names:
        if name in adapted or f"{name}.weight" in shared:
            raise RequestError(f"{name} {'has an adapter' if name in adapted else 'shares its weight with another'}, "
                               "so it cannot be trained whole beside it; leave it out of save")
        known[name].requires_grad_(True)
        known[name].kept = True


def kept(module: nn.Module) -> dict[str, Any]:
    """The layers that `keep` chose, by name."""
    return {name: m for name, m in module.named_modules() if m.__dict__.get("kept")}


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Set the submodule of that name."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)


def merge_layers(module: nn.Module, kind: type[Layer]) -> nn.Module:
    """Put plain layers in the place of adapted ones; all weights are trainable again."""
    for name, layer in layers(module, kind).items():
        put(module, name, layer.merged())
    for p in module.parameters():
        p.requires_grad_(p.is_floating_point())
    return module


@dataclass(frozen=True)
class Place:
    """A layer of the other format and which of ours it is: one, or several that it fuses (c_attn is q, k and v)."""

    theirs: str
    ours: tuple[str, ...]
    sizes: tuple[int, ...]              # output rows of each of ours
    turned: bool                        # theirs is a Conv1D (GPT-2)
    heads: int                          # theirs are laid out head by head (GPT-NeoX)

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Rows of ours, one tensor a layer, in the order of theirs."""
        whole = torch.cat([parts[n].unflatten(0, (self.heads, -1)) for n in self.ours], 1)
        return whole.flatten(0, 1).contiguous()

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        """The inverse of `join`."""
        parts = whole.unflatten(0, (self.heads, -1)).split([size // self.heads for size in self.sizes], 1)
        return {n: part.flatten(0, 1).contiguous() for n, part in zip(self.ours, parts, strict=True)}


class Names:
    """The linear layers of a module under the names of the other format, both ways."""

    def __init__(self, module: nn.Module, family: str):
        known = linears(module)
        with torch.device("meta"):
            state = {f"{n}.weight": torch.empty(m.out_features, m.in_features) for n, m in known.items()}
        entry = registry.load("models", family)
        pairs = entry.HF.of(module).pairs(state, module)
        renames = entry.module_names(module.config) if "module_names" in vars(entry) else ()
        self.linears = known
        self.places: dict[str, Place] = {}
        for pair in pairs:
            ours = tuple(n.removesuffix(".weight") for n in pair.ours)
            if len(pair.theirs) == 1 and all(n in known for n in ours):
                theirs = pair.theirs[0].removesuffix(".weight")
                for old, new in renames:
                    theirs = re.sub(old, new, theirs)
                self.places[theirs] = Place(theirs, ours, tuple(known[n].out_features for n in ours), pair.turned,
                                            pair.heads)
        self.of = {n: place for place in self.places.values() for n in place.ours}

    def taken(self, adapted: Iterable[str]) -> list[Place]:
        """The places that hold at least one of these layers, in the model's order."""
        wanted = set(adapted)
        if strange := sorted(wanted - self.of.keys()):
            raise RequestError(f"layer {strange[0]} has no place in the folder's format; leave it out of where")
        return [place for place in self.places.values() if wanted & set(place.ours)]

    def targets(self, adapted: Iterable[str]) -> list[str]:
        """PEFT's target_modules: last words where they mean exactly the adapted layers, else whole names."""
        names = {place.theirs for place in self.taken(adapted)}
        words = sorted({name.rpartition(".")[2] for name in names})
        meant = {name for name in self.places if name.rpartition(".")[2] in words}
        return words if meant == names else sorted(names)

    def whole(self, name: str) -> str:
        """Their name of a layer that stands alone there, as it is; RequestError for another."""
        place = self.of.get(name)
        if place is None or len(place.ours) > 1 or place.turned or place.heads > 1:
            raise RequestError(f"{name} is no layer of its own in the folder's format; leave it out of save")
        return place.theirs

    def stems(self) -> Iterator[tuple[str, Place]]:
        """(name in a file, place): theirs, and our own names, which older files of ours use."""
        for theirs, place in self.places.items():
            yield theirs, place
            for name, size in zip(place.ours, place.sizes, strict=True):
                if name != theirs:
                    yield name, Place(name, (name,), (size,), False, 1)


def trainable(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)



def pattern(rows: Any, name: str, usual: Any) -> Any:
    """PEFT's rank_pattern and alpha_pattern: the first row whose regex ends the name decides, else `usual`."""
    for key, value in (rows or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return usual


def tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], why: str) -> Tensor:
    """One tensor of a file in fp32; RequestError when it is missing or has another shape than `why` asks for."""
    found = tensors.get(name)
    if found is None or found.shape != shape:
        raise RequestError(f"tensor {name} is {'missing' if found is None else tuple(found.shape)}, {why} need {shape}")
    return found.float()
