"""LoRA: freeze a model and give chosen Linear layers a trainable low-rank update; rsLoRA, DoRA and LoRA+ too.

Hu et al. 2021, https://arxiv.org/abs/2106.09685:

    apply(module, rank=8, alpha=16.0, where=r".*\\.(q|v)", seed=0)     # y = W x + (alpha / rank) B A x, B = 0 at first
    save(folder, module, family, base_hash); load(folder, module, family, base_hash); merge(module)

- `rslora`: alpha / sqrt(rank), so that a larger rank does not learn less (Kalajdzievski 2023, arXiv 2312.03732).
- `dora`: each row of W + (alpha / rank) B A is scaled to a learned length, at first its own; the length it is divided
  by gets no gradient (Liu et al. 2024, arXiv 2402.09353, section 4.3).
- LoRA+: B learns 16 times as fast as A (Hayou et al. 2024, arXiv 2402.12354). Rates are the trainer's matter:
  `train.groups=[{"match": "\\\\.b$", "lr": 16}]`.

It looks at names and linear layers only, so it works on any model. Files are PEFT's (`adapter_config.json`,
`adapter_model.safetensors`): `peft.PeftModel.from_pretrained` reads ours and `load` reads theirs. Beside them
`meristem.json` keeps the hash of the base (`hub.hf.identity`), and an adapter is refused on any other. Where the other
format fuses layers (GPT-2's c_attn, GPT-NeoX), the updates of ours become one of higher rank there, B in blocks;
read back, every one of ours gets A and its rows of B.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.adapt import base, files
from meristem.adapt.base import EVERYWHERE, Names, Place
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of
from meristem.nn.nf4 import NF4Linear

TYPE = "LORA"
HALVES = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
PLAIN = {                                       # keys of PEFT's config that an adapter may set
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "lora_dropout",
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "inference_mode", "auto_mapping", "revision",
    "peft_version", "init_lora_weights", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "exclude_modules",
    "ensure_weight_tying", "qalora_group_size", "megatron_core"}


@dataclass(frozen=True)
class Config:
    """What `Part("lora", {...})` may say."""

    rank: int = 8
    alpha: float = 16.0                         # the update is scaled by alpha / rank
    where: str = EVERYWHERE                     # a regular expression that must match a layer's whole name
    rslora: bool = False                        # scale by alpha / sqrt(rank) instead
    dora: bool = False                          # learn the length of each row of the adapted matrix apart


class LoRA(base.Layer):
    """A frozen linear layer plus scale * B A x; A is uniform(-1, 1)/sqrt(in) as in PEFT, B is 0: step 0 is the base."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator | None = None,
                 rslora: bool = False, dora: bool = False):
        super().__init__(layer)
        assert isinstance(layer, base.LINEAR)
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.scale = alpha / math.sqrt(rank) if rslora else alpha / rank
        a = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) / math.sqrt(layer.in_features)
        device = next(layer.parameters()).device
        self.a = nn.Parameter(a.to(device))                                     # fp32 masters whatever the base's type
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        self.magnitude = nn.Parameter(self.length().clone()) if dora else None

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        if self.magnitude is None:
            return self.base(x) + self.scale * F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        y, bias = self.base(x), self.base.bias
        plain = y if bias is None else y - bias.to(x.dtype)
        update = self.scale * F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        share = (self.magnitude / self.length()).to(x.dtype)
        return y + (share - 1) * plain + share * update        # share is 1 at first: nothing is added to y

    def update(self) -> Float[Tensor, "O I"]:
        """scale * B A, fp32."""
        return self.scale * self.b @ self.a

    @torch.no_grad()
    def length(self) -> Float[Tensor, "O"]:
        """The norm of each row of W + scale * B A, a constant of the step (DoRA, section 4.3)."""
        return torch.linalg.vector_norm(self.base.weight.float() + self.update(), dim=1)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain layer with the update added into its weight (summed in fp32; in place where the base is plain)."""
        layer = self.base.plain() if isinstance(self.base, NF4Linear) else self.base
        if not isinstance(layer, nn.Linear):
            raise RequestError("an update cannot be merged into integers; load the unquantised base and merge there")
        weight = layer.weight
        whole = weight.float() + self.update()
        if self.magnitude is not None:
            whole = whole * (self.magnitude / torch.linalg.vector_norm(whole, dim=1))[:, None]
        weight.copy_(whole.to(weight.dtype))
        return layer


def apply(module: nn.Module, rank: int = 8, alpha: float = 16.0, where: str = EVERYWHERE, seed: int = 0, *,
          rslora: bool = False, dora: bool = False) -> nn.Module:
    """Freeze `module`, then wrap every linear layer whose name matches `where`, in place. RequestError if none does."""
    names = base.chosen(module, where)
    if rank < 1:
        raise RequestError(f"rank must be at least 1, not {rank}")
    return wrap(module, dict.fromkeys(names, (rank, alpha)), seed, rslora, dora)


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """`apply` with the fields of a config."""
    return apply(module, config.rank, config.alpha, config.where, seed, rslora=config.rslora, dora=config.dora)


def found(module: nn.Module) -> bool:
    """Whether the module has LoRA layers, and none around NF4 (`qlora`)."""
    wrapped = [m.base for m in module.modules() if isinstance(m, LoRA)]
    return bool(wrapped) and not any(isinstance(m, NF4Linear) for m in wrapped)


def merge(module: nn.Module) -> nn.Module:
    """Add every update into its layer and put the plain layers back, in place; all weights are trainable again."""
    return base.merge_layers(module, LoRA)


@torch.no_grad()
def unmerge(module: nn.Module, adapter: nn.Module) -> nn.Module:
    """The inverse of `merge`: take the updates of `adapter` (a copy of the adapted module) out of a merged `module`.

    The layers of `module` are wrapped with the same updates again; weights come back to within rounding. RequestError
    for DoRA, whose rows were scaled.
    """
    taken = base.layers(adapter, LoRA)
    if any(layer.magnitude is not None for layer in taken.values()):
        raise RequestError("DoRA scaled the rows of the base, so it cannot be taken out again; load the base anew")
    for name, layer in taken.items():
        plain = module.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        plain.weight.copy_((plain.weight.float() - layer.update()).to(plain.weight.dtype))
    wrap(module, {n: (layer.rank, layer.alpha) for n, layer in taken.items()}, 0,
          any(layer.rslora for layer in taken.values()), False)
    for name, layer in base.layers(module, LoRA).items():
        layer.a.copy_(taken[name].a)
        layer.b.copy_(taken[name].b)
    return module


def save(folder: Path, module: nn.Module, family: str, base_hash: str, base: str = "") -> None:
    """Write PEFT's two files and our note, whole or not at all; `base` is the base model's folder or Hub name."""
    if not any(isinstance(m, LoRA) for m in module.modules()):
        raise RequestError("this model has no LoRA layers to save; call lora.apply first")
    files.save(folder, module, family, base_hash, base)


def load(folder: Path, module: nn.Module, family: str, base_hash: str) -> nn.Module:
    """Wrap `module` with the adapter in `folder` (ours or PEFT's), in place. RequestError names what does not fit.

    `base_hash` is `hub.hf.identity` of the module; an adapter that notes another base is refused.
    """
    return files.load(folder, module, family, base_hash)


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """PEFT's keys and tensors. Ranks that differ go into rank_pattern, as in PEFT."""
    layers = base.layers(module, LoRA)
    rslora, dora = {layer.rslora for layer in layers.values()}, {layer.magnitude is None for layer in layers.values()}
    if len(rslora) > 1 or len(dora) > 1:
        raise RequestError("layers with and without rslora or dora do not fit one adapter_config.json")
    tensors: dict[str, Tensor] = {}
    ranks, alphas, turned = dict[str, int](), dict[str, float](), False
    for place in names.taken(layers):
        some = {n: layers[n] for n in place.ours if n in layers}
        if len({layer.scale for layer in some.values()}) > 1:
            raise RequestError(f"{' and '.join(some)} are one layer in the folder's format and have different scales")
        a, b = _fused(place, some)
        tensors |= {f"{place.theirs}.{HALVES[0]}": a, f"{place.theirs}.{HALVES[1]}": b}
        first = next(iter(some.values()))
        ranks[place.theirs] = len(a)
        alphas[place.theirs] = first.scale * (math.sqrt(len(a)) if first.rslora else len(a)) \
            if len(a) != first.rank else first.alpha
        if first.magnitude is not None:
            lengths = {n: names.linears[n].weight.detach().float().norm(dim=1) for n in place.ours}
            lengths |= {n: layer.magnitude for n, layer in some.items() if layer.magnitude is not None}
            tensors[f"{place.theirs}.{HALVES[2]}"] = place.join(lengths)
        turned |= place.turned
    rank, alpha = max(ranks.values(), key=list(ranks.values()).count), max(alphas.values(),
                                                                           key=list(alphas.values()).count)
    config = {"r": rank, "lora_alpha": alpha, "target_modules": names.targets(layers), "lora_dropout": 0.0,
              "bias": "none", "fan_in_fan_out": turned, "use_rslora": rslora.pop(), "use_dora": not dora.pop(),
              "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
              "alpha_pattern": {n: x for n, x in alphas.items() if x != alpha}}
    return config, tensors, {}


@dataclass(frozen=True)
class Update:
    """What an adapter's file says of one layer: y = W x + scale * B A x."""

    a: Float[Tensor, "R I"]
    b: Float[Tensor, "O R"]
    alpha: float
    rslora: bool = False
    magnitude: Float[Tensor, "O"] | None = None

    @property
    def rank(self) -> int:
        """Of the update."""
        return len(self.a)

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / math.sqrt(self.rank) if self.rslora else self.alpha / self.rank


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """Wrap `module` by PEFT's keys and tensors, in place; the inverse of `pack`."""
    found = updates(config, tensors, names)
    base.free(module, found)
    first = next(iter(found.values()))
    wrap(module, {n: (u.rank, u.alpha) for n, u in found.items()}, 0, first.rslora, first.magnitude is not None)
    for name, u in found.items():
        values = {"a": u.a, "b": u.b} | ({} if u.magnitude is None else {"magnitude": u.magnitude})
        module.get_submodule(name).load_state_dict(values, strict=False)
    return module


def updates(config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names) -> dict[str, Update]:
    """The update of each adapted layer, by its name; RequestError names what does not fit."""
    rank, alpha = _supported(config)
    places = {stem: place for stem, place in names.stems() if f"{stem}.{HALVES[0]}" in tensors}
    stray = [n for n in tensors if _stem(n) not in places]
    if stray or not places:
        known = [f"{stem}.{HALVES[0]}" for stem, _ in names.stems()]
        raise RequestError(f"tensor {stray[0]} belongs to no layer of this model; {nearest(stray[0], known)}" if stray
                           else "holds no LoRA tensors")
    dora, out = bool(config.get("use_dora")), dict[str, Update]()
    for stem, place in places.items():
        r, x = base.pattern(config.get("rank_pattern"), stem, rank), base.pattern(config.get("alpha_pattern"), stem,
                                                                                  alpha)
        rows, columns = sum(place.sizes), names.linears[place.ours[0]].in_features
        wanted = [(r, columns), (rows, r), *([(rows,)] if dora else [])]
        a, b, *lengths = (base.tensor(tensors, f"{stem}.{half}", shape, f"this model and r = {r}")
                          for half, shape in zip(HALVES, wanted, strict=False))
        halves = place.split(b)
        long = place.split(lengths[0]) if lengths else {}
        for name in place.ours:
            out[name] = Update(a, halves[name], x, bool(config.get("use_rslora")), long.get(name))
    return out


def _fused(place: Place, layers: Mapping[str, LoRA]) -> tuple[Tensor, Tensor]:
    """A and B of one layer of theirs: one A for all where they are equal, else one below the other, B in blocks."""
    every = list(layers.values())
    first = every[0].a.detach()
    same = all(torch.equal(layer.a.detach(), first) for layer in every)
    a = first if same else torch.cat([layer.a.detach() for layer in every])
    columns, at = dict[str, Tensor](), 0
    for name, size in zip(place.ours, place.sizes, strict=True):
        columns[name] = torch.zeros(size, len(a), device=first.device)
        if name in layers:
            rank = layers[name].rank
            columns[name][:, at: at + rank] = layers[name].b.detach()
            at += 0 if same else rank
    return a.contiguous(), place.join(columns)


def _stem(name: str) -> str:
    return next((name.removesuffix(f".{half}") for half in HALVES if name.endswith(f".{half}")), "")


def _supported(config: Mapping[str, Any]) -> tuple[int, float]:
    """r and alpha of PEFT's config; RequestError when it asks for something else than LoRA, rsLoRA or DoRA."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise RequestError(f"is not a LoRA config (r {rank!r}, lora_alpha {alpha!r})")
    odd = {k: v for k, v in config.items() if k not in PLAIN and v not in (None, False, "none", {}, [])}
    if config.get("init_lora_weights") not in (None, True, False, "gaussian", "orthogonal"):
        odd["init_lora_weights"] = config["init_lora_weights"]     # PiSSA and its like change the base's weights, too
    if odd:
        raise RequestError("only plain LoRA, rsLoRA and DoRA are supported, not "
                           + ", ".join(f"{k} = {v!r}" for k, v in odd.items()))
    return rank, float(alpha)


def wrap(module: nn.Module, shapes: Mapping[str, tuple[int, float]], seed: int, rslora: bool = False,
          dora: bool = False) -> nn.Module:
    """Freeze `module` and put LoRA around these layers, name -> (rank, alpha), in place."""
    module.requires_grad_(False)
    for name, (rank, alpha) in shapes.items():
        layer = module.get_submodule(name)
        generator = torch.Generator().manual_seed(seed_of(seed, "lora", name))  # adding a layer changes no other
        base.put(module, name, LoRA(layer, rank, alpha, generator, rslora, dora))
    return module
