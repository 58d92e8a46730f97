"""Gated prefix: every layer also attends to a few learned vectors, times a gate that starts at zero (LLaMA-Adapter).

Zhang et al. 2023, https://arxiv.org/abs/2303.16199, section 3.2 "zero-initialized attention": the vectors pass the
layer's own key and value matrices, their softmax is apart from the text's, so step 0 is the base exactly and no
position moves. A recipe says `adapt.name=gated_prefix`. It works wherever there is `nn.attention.Attention`: text,
pictures, encoders and decoders. For Llama's line files are PEFT's ADAPTION_PROMPT, both ways (PEFT's gate is not put
through a tanh, nor is ours); elsewhere it is a type of our own, for PEFT's GPT-2 leaves the output matrix out.
"""
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
from meristem.core.random import seed_of
from meristem.nn.attention import Attention, Reach, attend

TYPE = "ADAPTION_PROMPT"
OWN = "GATED_PREFIX"
PARTS = ("adaption_prompt", "adaption_gate")


@dataclass(frozen=True)
class Config:
    """What `Part("gated_prefix", {...})` may say."""

    length: int = 16                            # vectors a layer
    layers: int = 0                             # the last so many layers; 0 = all


class Gate(nn.Module):
    """The vectors [P, D] of one layer and its gate."""

    def __init__(self, length: int, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(length, width, generator=generator))
        self.gate = nn.Parameter(torch.zeros(1))

    def beside(self, attention: Attention, q: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H K"]:
        """What queries find in the vectors, times the gate (`Attention.beside`)."""
        x = self.prompt.to(q.dtype)
        k, v = (f(x).unflatten(-1, (-1, attention.head_dim)).expand(len(q), -1, -1, -1)
                for f in (attention.k, attention.v))
        found = attend(q, attention.k_norm(k), v, Reach(causal=False), scale=attention.scale)
        return self.gate.to(q.dtype) * found


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """Freeze `module` and put vectors beside its last layers, in place."""
    known = _attentions(module)
    if not known or config.length < 1 or not 0 <= config.layers <= len(known):
        raise RequestError(f"a gated prefix needs length >= 1 and attention in the layers it is put on; this model has "
                           f"{len(known)} such layers, and length={config.length} layers={config.layers} was asked for")
    return _wrap(module, dict.fromkeys(list(known)[-config.layers:], config.length), seed)


def found(module: nn.Module) -> bool:
    """Whether the module has gates."""
    return any(isinstance(m, Gate) for m in module.modules())


def merge(module: nn.Module) -> nn.Module:
    """Always a RequestError."""
    raise RequestError("a gated prefix is no weight of the model; keep the adapter beside its base")


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """PEFT's keys and tensors where it computes the same, else a type of our own."""
    known = _attentions(module)
    gated = {n: g for n, m in known.items() if isinstance(g := m._modules.get("gated"), Gate)}
    tail = list(known)[-len(gated):] == list(gated)
    theirs = {n: outer for n in gated if (outer := _theirs(n, names))}
    lengths = {len(g.prompt) for g in gated.values()}
    same = tail and len(theirs) == len(gated) and len(lengths) == 1
    tensors = dict[str, Tensor]()
    for name, gate in gated.items():
        stem = theirs[name] if same else name
        tensors |= {f"{stem}.{PARTS[0]}": gate.prompt[None], f"{stem}.{PARTS[1]}": gate.gate}
    if not same:
        return {"peft_type": OWN}, tensors, {"method": "gated_prefix"}
    return {"adapter_len": lengths.pop(), "adapter_layers": len(gated), "target_modules": "self_attn"}, tensors, {}


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """The inverse of `pack`, in place."""
    known = _attentions(module)
    stems = {n: n for n in known} | {outer: n for n in known if (outer := _theirs(n, names))}
    found = sorted({name.rpartition(".")[0] for name in tensors})
    if stray := [n for n in found if n not in stems]:
        raise RequestError(f"tensors of {stray[0]} belong to no attention of this model, or to one whose adapter PEFT "
                           f"computes otherwise; {nearest(stray[0], stems)}")
    values, lengths = dict[str, dict[str, Tensor]](), dict[str, int]()
    for stem in found:
        name = stems[stem]
        width, whole = known[name].k.in_features, tensors.get(f"{stem}.{PARTS[0]}")
        lengths[name] = length = whole.shape[1] if whole is not None and whole.ndim == 3 else 0
        values[name] = {
            "prompt": base.tensor(tensors, f"{stem}.{PARTS[0]}", (1, length, width), "this model's layers")[0],
            "gate": base.tensor(tensors, f"{stem}.{PARTS[1]}", (1,), "this model's layers")}
    _wrap(module, lengths, 0)
    for name, parts in values.items():
        known[name].gated.load_state_dict(parts)               # type: ignore[union-attr]
    return module


def _wrap(module: nn.Module, lengths: Mapping[str, int], seed: int) -> nn.Module:
    module.requires_grad_(False)
    for name, length in lengths.items():
        attn = module.get_submodule(name)
        assert isinstance(attn, Attention)
        if attn.beside is not None:
            raise RequestError("this model already has a gated prefix")
        generator = torch.Generator().manual_seed(seed_of(seed, "gate", name))
        attn.gated = Gate(length, attn.k.in_features, generator)
        attn.beside = attn.gated.beside
    return module


def _attentions(module: nn.Module) -> dict[str, Attention]:
    return {n: m for n, m in module.named_modules() if isinstance(m, Attention)}


def _theirs(name: str, names: Names) -> str:
    """Their name of an attention whose q and o stand alone there, the latter without a bias; else ""."""
    q, o = names.of.get(f"{name}.q"), names.of.get(f"{name}.o")
    if q is None or o is None or len(q.ours) > 1 or names.linears[f"{name}.o"].bias is not None:
        return ""
    return q.theirs.rpartition(".")[0] if q.theirs.endswith("self_attn.q_proj") else ""
