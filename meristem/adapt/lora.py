"""LoRA: freeze a model and give chosen Linear layers a trainable low-rank update.

Hu et al. 2021, https://arxiv.org/abs/2106.09685:

    apply(module, rank=8, alpha=16.0, where=r".*\\.(q|v)", seed=0)     # y = W x + (alpha / rank) B A x, B = 0 at first
    save(folder, module, family, base_hash); load(folder, module, family, base_hash); merge(module)

It looks at names and nn.Linear only, so it works on any model. Files are PEFT's (`adapter_config.json`,
`adapter_model.safetensors`): `peft.PeftModel.from_pretrained` reads ours and `load` reads theirs. Beside them
`meristem.json` keeps the hash of the base (`hub.hf.identity`), and an adapter is refused on any other. Where the other
format fuses an adapted layer with others (GPT-2's c_attn, GPT-NeoX), all layers stand under our names: PEFT then finds
none of them in its model and refuses.
"""
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core import registry
from meristem.core.errors import RequestError, nearest
from meristem.core.files import MANIFEST, committed, read_json, verify, write_json
from meristem.core.names import tied
from meristem.core.random import seed_of

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "meristem.json"
EVERYWHERE = r".*\.(q|k|v|o|gate|up|down)"      # every matrix of a block: better than q and v alone (QLoRA, section 4)
PLAIN = {                                       # keys of PEFT's config that a plain adapter may set
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "lora_dropout",
    "use_rslora", "inference_mode", "auto_mapping", "revision", "peft_version", "init_lora_weights", "fan_in_fan_out",
    "layers_to_transform", "layers_pattern", "exclude_modules", "ensure_weight_tying", "qalora_group_size",
    "megatron_core"}


@dataclass(frozen=True)
class Config:
    """What `Part("lora", {...})` may say."""

    rank: int = 8
    alpha: float = 16.0                         # the update is scaled by alpha / rank
    where: str = EVERYWHERE                     # a regular expression that must match a layer's whole name


class LoRA(nn.Module):
    """A frozen Linear layer plus scale * B A x; A is uniform(-1, 1)/sqrt(in) as in PEFT, B is 0: step 0 is the base."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None):
        super().__init__()
        self.base, self.rank, self.alpha, self.scale = base, rank, alpha, alpha / rank
        a = (torch.rand(rank, base.in_features, generator=generator) * 2 - 1) / math.sqrt(base.in_features)
        self.a = nn.Parameter(a.to(base.weight.device))                         # fp32 masters whatever the base's type
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in_features] -> [..., out_features] in the type of x."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the update added into its weight (in place, summed in fp32)."""
        weight = self.base.weight
        weight.copy_((weight.float() + self.scale * self.b @ self.a).to(weight.dtype))
        return self.base


def apply(module: nn.Module, rank: int = 8, alpha: float = 16.0, where: str = EVERYWHERE, seed: int = 0) -> nn.Module:
    """Freeze `module`, then wrap every Linear layer whose name matches `where`, in place. RequestError if none does."""
    linears = _linears(module)
    try:
        chosen = [name for name in linears if re.fullmatch(where, name)]
    except re.error as error:
        raise RequestError(f"{where!r} is not a regular expression: {error}") from None
    if not chosen:
        raise RequestError(f"no Linear layer's name matches {where!r}; {nearest(where, linears)}")
    if rank < 1:
        raise RequestError(f"rank must be at least 1, not {rank}")
    return _wrap(module, dict.fromkeys(chosen, rank), alpha, seed)


def merge(module: nn.Module) -> nn.Module:
    """Add every update into its layer and put the plain layers back, in place; all weights are trainable again."""
    for name, layer in _adapted(module).items():
        _put(module, name, layer.merged())
    return module.requires_grad_(True)


def save(folder: Path, module: nn.Module, family: str, base_hash: str, base: str = "") -> None:
    """Write PEFT's two files and our note, whole or not at all; `base` is the base model's folder or Hub name."""
    layers = _adapted(module)
    if not layers:
        raise RequestError("this model has no LoRA layers to save; call lora.apply first")
    shapes = {(layer.rank, layer.alpha) for layer in layers.values()}
    if len(shapes) > 1:
        raise RequestError(f"adapters of several ranks or alphas ({sorted(shapes)}) do not fit one adapter_config.json")
    rank, alpha = shapes.pop()
    known = _their_names(module, family)
    theirs = (lambda name: str(known[name])) if all(known[name] for name in layers) else str
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{theirs(name)}.lora_A.weight"] = layer.a.detach().contiguous()
        tensors[f"base_model.model.{theirs(name)}.lora_B.weight"] = layer.b.detach().contiguous()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
              "lora_alpha": alpha,
              "target_modules": _targets([theirs(n) for n in layers], [theirs(n) for n in _linears(module)]),
              "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "inference_mode": True}
    with committed(folder) as tmp:
        write_json(tmp / CONFIG, config)
        write_json(tmp / NOTE, {"family": family, "base": base_hash})
        save_file(tensors, tmp / WEIGHTS, metadata={"format": "pt"})


def base_of(folder: Path) -> str:
    """The folder or Hub name of the base model that an adapter's config names, or ""."""
    return str(_json(folder / CONFIG).get("base_model_name_or_path") or "")


def load(folder: Path, module: nn.Module, family: str, base_hash: str) -> nn.Module:
    """Wrap `module` with the adapter in `folder` (ours or PEFT's), in place. RequestError names what does not fit.

    `base_hash` is `hub.hf.identity` of the module; an adapter that notes another base is refused.
    """
    if (folder / MANIFEST).exists() and (problem := verify(folder)):
        raise RequestError(f"{folder}: {problem}; fetch or train it again")
    config = _json(folder / CONFIG)
    note = _json(folder / NOTE) if (folder / NOTE).exists() else {}
    if note.get("base", base_hash) != base_hash:
        raise RequestError(f"{folder} was trained on the base {note['base']}, this model is {base_hash}; "
                           f"load it on its own base ({base_of(folder) or 'which it does not name'})")
    alpha = _supported(config, folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise RequestError(f"{folder / WEIGHTS} is missing") from None
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{folder / WEIGHTS} is not a whole safetensors file ({error})") from None
    ours = {f"base_model.model.{stem}": name for name, other in _their_names(module, family).items()
            for stem in (name, other) if stem}
    halves = {stem: name for stem, name in ours.items() if f"{stem}.lora_A.weight" in tensors}
    stray = [n for n in tensors if n.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") not in halves]
    if stray or not halves:
        known = [f"{stem}.lora_A.weight" for stem in ours]
        raise RequestError(f"{folder / WEIGHTS}: " + (
            f"tensor {stray[0]} belongs to no layer of this model; {nearest(stray[0], known)}" if stray
            else "holds no LoRA tensors"))
    rank, linears = config["r"], _linears(module)
    for stem, name in halves.items():
        layer = linears[name]
        for half, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            tensor = tensors.get(f"{stem}.lora_{half}.weight")
            if tensor is None or tensor.shape != shape:
                found = "missing" if tensor is None else f"{tuple(tensor.shape)}"
                raise RequestError(f"{folder / WEIGHTS}: tensor {stem}.lora_{half}.weight is {found}, "
                                   f"this model and r = {rank} need {shape}")
    _wrap(module, dict.fromkeys(halves.values(), rank), alpha, 0)
    with torch.no_grad():
        for stem, name in halves.items():
            wrapped = module.get_submodule(name)
            assert isinstance(wrapped, LoRA)
            wrapped.a.copy_(tensors[f"{stem}.lora_A.weight"])
            wrapped.b.copy_(tensors[f"{stem}.lora_B.weight"])
    return module


def _supported(config: dict[str, Any], source: Path) -> float:
    """alpha of PEFT's config; RequestError when it asks for something beyond plain LoRA."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise RequestError(f"{source} is not a LoRA config (peft_type {config.get('peft_type')!r}, r {rank!r}, "
                           f"lora_alpha {alpha!r})")
    odd = {k: v for k, v in config.items() if k not in PLAIN and v not in (None, False, "none", {}, [])}
    if config.get("init_lora_weights") not in (None, True, False, "gaussian", "orthogonal"):
        odd["init_lora_weights"] = config["init_lora_weights"]     # PiSSA and its like change the base's weights, too
    if odd:
        raise RequestError(f"{source}: only plain LoRA is supported, not "
                           + ", ".join(f"{k} = {v!r}" for k, v in odd.items()))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else float(alpha)   # rsLoRA: alpha / sqrt(r)


def _json(path: Path) -> dict[str, Any]:
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise RequestError(f"{path} is not a mapping of settings")
    return tree


def _targets(chosen: list[str], everything: list[str]) -> list[str]:
    """PEFT's target_modules: last words where they mean exactly the chosen layers, else whole names."""
    words = sorted({name.rpartition(".")[2] for name in chosen})
    meant = {name for name in everything if name.rpartition(".")[2] in words}
    return words if meant == set(chosen) else sorted(chosen)


def _their_names(module: nn.Module, family: str) -> dict[str, str | None]:
    """Every Linear layer -> its name in the other format, None where it has none of its own there."""
    names, found = registry.load("models", family).HF.of(module), dict[str, str | None]()
    for layer in _linears(module):
        try:
            found[layer] = names.theirs(f"{layer}.weight").removesuffix(".weight")
        except RequestError:
            found[layer] = None
    return found


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear layer by the name it has without adapters."""
    return {name.removesuffix(".base"): layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def _adapted(module: nn.Module) -> dict[str, LoRA]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRA)}


def _wrap(module: nn.Module, ranks: dict[str, int], alpha: float, seed: int) -> nn.Module:
    if _adapted(module):
        raise RequestError("this model already has a LoRA adapter; merge it first")
    module.requires_grad_(False)
    shared = {n for pair in tied(module).items() for n in pair}
    for name, rank in ranks.items():
        if f"{name}.weight" in shared:
            raise RequestError(f"{name} shares its weight with another layer, so it cannot have an adapter of its own; "
                               "leave it out of where")
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        generator = torch.Generator().manual_seed(seed_of(seed, "lora", name))  # adding a layer changes no other
        _put(module, name, LoRA(layer, rank, alpha, generator))
    return module


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
