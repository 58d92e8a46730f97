"""Plans for a machine that is not this one: whether a model fits its memory, how long training on many devices takes.

    found = fit(named("llama2-70b"), memory=24 * 10**9)
    found.best.name                     # "int4, 37 of 80 layers in another memory": the least change that fits
    days(1_022_362, devices=2048)       # 20.8: LLaMA 65B (https://arxiv.org/abs/2302.13971, table 15)
    training(named("llama-65b"), 1.4e12, "a100-sxm-80gb", price=2.0)           # hours, MWh, tonnes, dollars: ranges

Bytes are counted on the meta device from the model's own layers: bf16 weights, or those that `nn.quantise` makes (int8
with a scale a row; int4 with one for 32 columns, 4.5 bits a weight; tables and norms stay bf16), the key/value cache of
`batch` rows at the full `context`, the widest intermediate of one token a row, and the runtime. A layer that lies in
another memory is fetched when its turn comes, into room for one layer; its cache stays.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from meristem.core import registry
from meristem.core.config import Part, to_dict
from meristem.core.errors import RequestError, nearest
from meristem.nn.linear import compute_in
from meristem.plan import energy
from meristem.plan.cost import RUNTIME, Cost, on_meta
from meristem.plan.devices import device

PRECISIONS = {"bf16": (16, 0), "int8": (8, 0), "int4": (4, 32)}       # bits of a weight, columns that share a scale
# Shares of peak, attention counted whole: at least, expected, at most. Published (Chowdhery et al. 2022, table 3):
# GPT-3 21 %, MT-NLG 30 %, Gopher 33 %, PaLM 46 %; LLaMA's four runs 46 to 55 % by their hours.
REACHED = (0.30, 0.45, 0.55)
PUE = 1.1                               # energy of a data centre over that of its machines (LLaMA, table 15)
SCALE = 2                                                       # bytes: bf16


@dataclass(frozen=True)
class Way:
    """One way to hold a model: a precision, and how many of its layers lie in another memory. `memory` is in bytes."""

    precision: str
    moved: int
    layers: int
    memory: int

    @property
    def name(self) -> str:
        """"int4, 37 of 80 layers in another memory"."""
        return self.precision + (f", {self.moved} of {self.layers} layers in another memory" if self.moved else "")


@dataclass(frozen=True)
class Fit:
    """What a model takes whole in each precision, and the ways that fit, the least change first (empty: none does)."""

    memory: int                         # bytes there are
    parameters: int
    context: int
    cache: int                          # bytes
    whole: tuple[Way, ...]
    ways: tuple[Way, ...]

    @property
    def best(self) -> Way | None:
        """The highest precision that fits whole, else the lowest with the fewest layers elsewhere, else None."""
        return self.ways[0] if self.ways else None

    def explain(self) -> list[str]:
        """Lines for people."""
        lines = [f"{self.parameters:,} parameters; {self.cache / 1e9:.2f} GB of cache at a context of {self.context:,}"]
        for way in self.whole:
            says = "fits" if way.memory <= self.memory else "does not fit"
            lines.append(f"{way.name}: {way.memory / 1e9:.1f} GB {says} in {self.memory / 1e9:.1f} GB")
        lines.append(f"smallest change that fits: {self.best.name} ({self.best.memory / 1e9:.1f} GB)" if self.best else
                     "nothing fits: not even int4 with every layer in another memory; shorten the context")
        return lines


def named(size: str) -> Part:
    """A published size by its name in any family's SIZES; RequestError names the nearest ones."""
    known: dict[str, Part] = {}
    for family in registry.names("models"):
        sizes = registry.load("models", family).SIZES
        known |= {name: Part(family, to_dict(config)) for name, config in sizes.items()}
    if size not in known:
        raise RequestError(f"no model of size {size!r}; {nearest(size, known)}")
    return known[size]


def fit(model: Part, memory: int, context: int = 0, batch: int = 1) -> Fit:
    """How a decoder can be used within `memory` bytes, `batch` rows of up to `context` positions (0: its own)."""
    module = compute_in(on_meta(model), torch.bfloat16)
    context = context or int(module.config.context)            # type: ignore[union-attr, arg-type]
    if memory < 1 or context < 1 or batch < 1:
        raise RequestError(f"memory ({memory}), context ({context}) and batch ({batch}) must be at least 1")
    with torch.device("meta"):
        caches = module.caches(batch, context)                 # type: ignore[operator]
    cache = sum(t.numel() * t.element_size() for layer in caches for t in vars(layer).values()
                if isinstance(t, torch.Tensor))
    widest = max(m.out_features for m in module.modules() if isinstance(m, nn.Linear))
    fixed = cache + 4 * batch * widest + RUNTIME
    layers = _layers(module)
    whole, ways = [], []
    for precision, (bits, group) in PRECISIONS.items():
        sizes = sorted((_bytes(layer, bits, group) for layer in layers), reverse=True)
        total = _bytes(module, bits, group) + fixed
        whole.append(Way(precision, 0, len(layers), total))
        fetched = sizes[0] if sizes else 0
        moved = next((n for n in range(1, len(sizes) + 1) if total - sum(sizes[:n]) + fetched <= memory), 0)
        if total <= memory:
            ways.append(whole[-1])
        elif moved:
            ways.append(Way(precision, moved, len(layers), total - sum(sizes[:moved]) + fetched))
    ways.sort(key=lambda way: (way.moved, -PRECISIONS[way.precision][0]))
    return Fit(memory, sum(p.numel() for p in module.parameters()), context, cache, tuple(whole), tuple(ways))


def days(device_hours: float, devices: int) -> float:
    """Wall-clock of so many device hours shared by so many devices."""
    return device_hours / devices / 24


def device_hours(tokens: float, rate: float) -> float:
    """Device hours to train on `tokens` at `rate` tokens a second and device."""
    return tokens / rate / 3600


@dataclass(frozen=True)
class Training:
    """What training a model on so many tokens takes on one kind of device: (expected, at least, at most)."""

    flops: float
    hours: tuple[float, float, float]   # device hours
    megawatt_hours: tuple[float, float, float] | None          # None: the maker rates no watts
    tonnes: tuple[float, float, float] | None                  # of CO2e
    dollars: tuple[float, float, float] | None                 # None: no price was given

    def explain(self, devices: int = 1) -> list[str]:
        """Lines for people."""
        return [f"{self.flops:.3g} FLOPs", *(
            f"{name}: {value[0]:,.4g} ({value[1]:,.4g} to {value[2]:,.4g})" for name, value in (
                ("device hours", self.hours),
                (f"days on {devices:,} devices", tuple(days(h, devices) for h in self.hours)),
                ("MWh", self.megawatt_hours), ("t CO2e", self.tonnes), ("dollars", self.dollars)) if value)]


def training(part: Part, tokens: float, name: str, context: int = 2048, *, price: float = 0.0,
             grid: str = "world") -> Training:
    """Hours, energy, carbon and money of training a model on devices called `name`, at published shares of peak.

    `price` in dollars a device hour. Attention counts whole, as published shares of peak do. RequestError for a device
    that is not known.
    """
    kind = device(name)
    flops = tokens * Cost.of(on_meta(part), context).training_flops_full
    peak = kind.flops("bfloat16" if "bfloat16" in kind.peak else "float16")
    low, middle, high = (flops / (peak * share) / 3600 for share in reversed(REACHED))
    hours = (middle, low, high)

    def scaled(each: float) -> tuple[float, float, float]:
        return (middle * each, low * each, high * each)
    used = scaled(energy.megawatt_hours(1.0, kind.watts, PUE)) if kind.watts else None
    carbon = scaled(energy.tonnes(energy.megawatt_hours(1.0, kind.watts, PUE), energy.factor(grid) / 1000)) \
        if kind.watts else None
    return Training(flops, hours, used, carbon, scaled(price) if price else None)


def _layers(module: nn.Module) -> Sequence[nn.Module]:
    """The repeated layers: the members of the module lists that lie in no other."""
    lists = {name: m for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for m in outer for layer in m]


def _bytes(module: nn.Module, bits: int, group: int) -> int:
    """Bytes of a module's parameters with its Linear weights in so many bits, each tensor once."""
    seen: dict[int, int] = {id(p): 2 * p.numel() for p in module.parameters()}
    if bits < 16:                                              # a tied head becomes a matrix of its own
        tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        for number, layer in enumerate(m for m in module.modules() if isinstance(m, nn.Linear)):
            rows, cols = layer.weight.shape
            scales = rows * math.ceil(cols / (group or cols))
            key = -1 - number if id(layer.weight) in tables else id(layer.weight)
            seen[key] = rows * cols * bits // 8 + SCALE * scales
    return sum(seen.values())
