"""Prefix tuning: learned keys and values before the text in every layer; every weight of the model stays frozen.

Li & Liang 2021, https://arxiv.org/abs/2101.00190, section 4.2, without the reparameterisation, which is dropped after
training (section 4.3). A recipe says `adapt.name=prefix adapt.length=16 adapt.text="Is this film good?"`.

The prefix starts as the keys and values of real words (section 7.4): `text`, or words drawn from the vocabulary. So
step 0 is the base exactly, as it goes on after these words, and a prefix of length 0 is the base itself; `gated_prefix`
starts as the base without any words. Files are PEFT's, both ways: `prompt_embeddings` [length, 2 x layers x width].
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.adapt import base
from meristem.adapt.ahead import Ahead, attentions, length_of, words
from meristem.adapt.base import Names
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.nn.attention import Reach, attend

TYPE = "PREFIX_TUNING"
KEY = "prompt_embeddings"


@dataclass(frozen=True)
class Config:
    """What `Part("prefix", {...})` may say."""

    length: int = 16                            # places
    text: str = ""                              # words to begin with


class Keys(nn.Module):
    """The learned keys and values [P, G, K] of one layer."""

    def __init__(self, length: int, groups: int, size: int):
        super().__init__()
        self.k, self.v = (nn.Parameter(torch.zeros(length, groups, size)) for _ in range(2))

    def attend(self, q: Float[Tensor, "B T H K"], k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G K"],
               reach: Reach, scale: float, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T H K"]:
        """Attention in which every query sees the prefix, too (`Attention.around`)."""
        batch, length = len(q), len(self.k)
        if not length:
            return attend(q, k, v, reach, scale=scale, segments=segments)
        k, v = (torch.cat([ours.to(theirs.dtype).expand(batch, -1, -1, -1), theirs], 1)
                for ours, theirs in ((self.k, k), (self.v, v)))
        q = torch.cat([q.new_zeros(batch, length, *q.shape[2:]), q], 1)    # places keep their distances
        seen = None
        if segments is not None:
            if reach.window:
                raise RequestError("a prefix and windows need data.packing=joined")
            at = torch.arange(q.shape[1], device=q.device)
            own = torch.nn.functional.pad(segments, (length, 0), value=-1)
            seen = reach.seen(at, at) & ((own[:, :, None] == own[:, None]) | (at < length))
        return attend(q, k, v, reach, scale=scale, seen=seen)[:, length:]


class Prefixed(Ahead):
    """A decoder with a prefix in every layer."""

    def __init__(self, module: nn.Module, length: int):
        super().__init__(module, length)
        layers = attentions(module)
        if not layers or any(attn.around is not None or attn.reach.chunk for attn in layers):
            raise RequestError("prefix tuning needs attention without chunks in every layer; use lora")
        for attn in layers:
            attn.prefix = Keys(length, attn.groups, attn.head_dim)
            attn.around = attn.prefix.attend

    def begin(self, cache: list[Any], batch: int) -> None:
        """Keys and values in the first slots."""
        at = torch.arange(self.length).expand(batch, -1)
        for layer, keys in zip(cache, self.keys(), strict=True):
            layer.write(keys.k.to(layer.k.dtype).expand(batch, -1, -1, -1),
                        keys.v.to(layer.v.dtype).expand(batch, -1, -1, -1), at)

    def keys(self) -> list[Keys]:
        """The prefix of every layer."""
        return [m for m in self.base.modules() if isinstance(m, Keys)]


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """The model behind a prefix that starts as the keys and values of words."""
    ids = words(module, config.length, config.text, seed, codec)
    cache: list[Any] = []
    if config.length:
        with torch.no_grad():
            cache = module.caches(1, config.length)            # type: ignore[operator]
            module.features(ids[None], positions=torch.arange(config.length)[None], cache=cache)   # type: ignore
    made = Prefixed(module, config.length)
    for keys, layer in zip(made.keys(), cache, strict=bool(cache)):
        keys.k.data.copy_(layer.k[0].transpose(0, 1))
        keys.v.data.copy_(layer.v[0].transpose(0, 1))
    return made


def found(module: nn.Module) -> bool:
    """Whether the model has a prefix."""
    return isinstance(module, Prefixed)


def merge(module: nn.Module) -> nn.Module:
    """Always a RequestError."""
    raise RequestError("a prefix is no weight of the model; keep the adapter beside its base")


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """PEFT's keys and its one tensor: for each place the keys and values of all layers."""
    assert isinstance(module, Prefixed)
    keys = module.keys()
    groups, size = keys[0].k.shape[1:]
    whole = torch.stack([t for layer in keys for t in (layer.k, layer.v)], 1)          # [P, 2 L, G, K]
    config = {"num_virtual_tokens": module.length, "num_layers": len(keys), "num_attention_heads": groups,
              "token_dim": groups * size, "num_transformer_submodules": 1, "prefix_projection": False,
              "encoder_hidden_size": groups * size}
    return config, {KEY: whole.flatten(1)}, {}


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """The model behind the prefix of a file."""
    length = length_of(config)
    made = Prefixed(module, length)
    keys = made.keys()
    groups, size = keys[0].k.shape[1:]
    whole = base.tensor(tensors, KEY, (length, 2 * len(keys) * groups * size), f"this model and {length} places")
    for layer, pair in zip(keys, whole.view(length, len(keys), 2, groups, size).unbind(1), strict=True):
        layer.k.data.copy_(pair[:, 0])
        layer.v.data.copy_(pair[:, 1])
    return made

