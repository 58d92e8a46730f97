"""Flamingo: a frozen language model that looks at pictures through gated cross-attention between its blocks.

Alayrac et al. 2022, https://arxiv.org/abs/2204.14198 (section 3; appendix A.1, figures 4 and 5). A picture, however
many patches a vision encoder makes of it, becomes `latents` vectors (the resampler); before every `every`-th block of
the language model the tokens look at those of the last picture before them, through two gates that begin at zero: at
step 0 the language model's logits are its own, to the bit. `language` is any decoder of this folder, `vision` a clip or
a vit. Which parameters train is said by `train.groups` (the paper: all but language and vision). In Python:

    model = Model(Config(vocab=97, context=64, language=Part("gpt2", {...}), vision=Part("vit", {...})))
    model(tokens, images=images)                               # [B, T], [B, P, C, H, W] -> [B, T, V]
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.config import Part, build, known, to_dict
from meristem.core.names import FieldMap, Group, Kind, NameMap, NameMaps, nested
from meristem.nn.attention import CrossAttention
from meristem.nn.linear import Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm
from meristem.nn.slots import Pending

CHINCHILLA = {"dim": 8192, "layers": 80, "heads": 64}          # section 3: 1.4B, 7B and 70B; ours is a gpt2's block
NFNET = Part("clip", {"image": 320, "patch": 16, "vision": {"dim": 1024, "layers": 24, "heads": 16}})


@dataclass(frozen=True)
class Config:
    """Both networks and what stands between them; `image` and `channels` follow from the vision encoder."""

    vocab: int = 32000
    context: int = 2048
    language: Part = Part("gpt2", {})   # a decoder; vocab and context are those above
    vision: Part = NFNET
    image_token: int = 1                # stands where a picture stands
    latents: int = 64                   # vectors of a picture (appendix A.1.1)
    resampler: int = 6                  # its layers
    every: int = 4                      # blocks of the language model for each that looks (1, 4 and 7 in the paper)
    heads: int = 8                      # of resampler and cross-attention
    image: int = 0
    channels: int = 0
    image_tokens: int = 1

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        language, vision = self.inner()
        if not 0 < self.image_token < self.vocab:
            raise ValueError(f"image_token ({self.image_token}) must be an id of the vocabulary of {self.vocab}, not 0")
        if self.every < 1 or self.latents < 1 or language.dim % self.heads:
            raise ValueError(f"every ({self.every}) and latents ({self.latents}) are at least 1, and heads "
                             f"({self.heads}) divide the language model's width ({language.dim})")
        set_(self, "language", Part(self.language.name, to_dict(language)))
        set_(self, "vision", Part(self.vision.name, to_dict(vision)))
        set_(self, "image", vision.image)
        set_(self, "channels", vision.channels)

    def inner(self) -> tuple[Any, Any]:
        """The configs of the language model and of the vision encoder."""
        language = registry.load("models", self.language.name).Config
        vision = registry.load("models", self.vision.name).Config
        alone = {"part": "image"} if self.vision.name == "clip" else {}
        return (build(language, self.language, **known(language, vocab=self.vocab, context=self.context)),
                build(vision, self.vision, **alone))


class Reader(nn.Module):
    """x + attention to source and x, then x + mlp(x): a layer of the resampler (figure 5)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_source, self.norm_mlp = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)
        self.attn, self.mlp = CrossAttention(dim, heads), MLP(dim, 4 * dim)

    def forward(self, x: Float[Tensor, "B L D"], source: Float[Tensor, "B S D"]) -> Float[Tensor, "B L D"]:
        """[B, L, D] -> the same."""
        y = self.norm(x)
        x = x + self.attn(y, self.attn.keys(torch.cat([self.norm_source(source), y], 1)))
        return x + self.mlp(self.norm_mlp(x))


class Resampler(nn.Module):
    """A few learned vectors read any number of patches (section 3.1)."""

    def __init__(self, c: Config, dim: int, source: int):
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(c.latents, dim))
        self.widen = nn.Identity() if dim == source else Linear(source, dim, bias=False)
        self.layers = nn.ModuleList(Reader(dim, c.heads) for _ in range(c.resampler))
        self.norm = LayerNorm(dim)

    def forward(self, source: Float[Tensor, "B S E"]) -> Float[Tensor, "B L D"]:
        """Patches of a picture -> its latents."""
        source = self.widen(source)
        x = self.latents.to(source.dtype).repeat(len(source), 1, 1)
        for layer in self.layers:
            x = layer(x, source)
        return self.norm(x)


class Look(nn.Module):
    """x + tanh(gate) * attention to the picture, then x + tanh(gate) * mlp (figure 4)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_mlp = LayerNorm(dim), LayerNorm(dim)
        self.attn, self.mlp = CrossAttention(dim, heads), MLP(dim, 4 * dim)
        self.gate, self.gate_mlp = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.shown: tuple[Tensor, Tensor] | None = None        # vectors [B, S, D], which of them a token sees [B, T, S]

    def before(self, block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a block is given: its input, looked at first (a forward pre-hook)."""
        return given if self.shown is None else (self(given[0], *self.shown), *given[1:])

    def forward(self, x: Float[Tensor, "B T D"], vectors: Float[Tensor, "B S D"],
                seen: Bool[Tensor, "B T S"]) -> Float[Tensor, "B T D"]:
        """[B, T, D] -> the same."""
        x = x + self.gate.tanh().to(x.dtype) * self.attn(self.norm(x), self.attn.keys(vectors.to(x.dtype)), seen)
        return x + self.gate_mlp.tanh().to(x.dtype) * self.mlp(self.norm_mlp(x))


class Model(nn.Module):
    """Token ids and pictures -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        language, vision = c.inner()
        self.language = registry.load("models", c.language.name).Model(language)
        whole = registry.load("models", c.vision.name).Model(vision)
        self.vision = whole.vision if c.vision.name == "clip" else whole
        self.resampler = Resampler(c, language.dim, vision.vision.dim if c.vision.name == "clip" else vision.dim)
        blocks = list(self.language.blocks)[::c.every]
        self.looks = nn.ModuleList(Look(language.dim, c.heads) for _ in blocks)
        for look, block in zip(self.looks, blocks, strict=True):
            block.register_forward_pre_hook(look.before)

    def see(self, images: Float[Tensor, "B *P C H W"]) -> Float[Tensor, "B M D"]:
        """The latents of each row's pictures, one after another."""
        x = self.resampler(self.vision.features(images.flatten(0, -4)))
        return x.unflatten(0, (len(images), -1)).flatten(1, 2)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Any] | None = None,
                 images: Float[Tensor, "B *P C H W"] | None = None) -> Float[Tensor, "B T D"]:
        """The language model's features; pictures of a row that goes through a cache were given to `caches`."""
        c = self.config
        pending = next((entry for entry in cache or [] if isinstance(entry, Pending)), None)
        shown = self.see(images) if images is not None else pending.vectors if pending else None
        seen = None
        if shown is not None:
            number = (tokens == c.image_token).cumsum(1)
            if pending is not None:
                number = number + pending.used[:, None]
                pending.used = number[:, -1]
            whose = torch.arange(1, shown.shape[1] // c.latents + 1, device=tokens.device)
            seen = number[..., None] == whose.repeat_interleave(c.latents)
        for look in self.looks:
            assert isinstance(look, Look)
            look.shown = None if shown is None or seen is None else (shown, seen)
        return self.language.features(tokens, positions, cache and [one for one in cache if one is not pending])

    def head(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """The language model's."""
        return self.language.head(features)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Any] | None = None,
                images: Float[Tensor, "B *P C H W"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V]."""
        return self.head(self.features(tokens, positions, cache, images))

    def caches(self, batch: int, length: int, images: Float[Tensor, "B *P C H W"] | None = None) -> list[Any]:
        """The language model's buffers and, behind them, the latents of each row's pictures."""
        made = self.language.caches(batch, length)
        return made if images is None else [*made, Pending(self.see(images))]


SIZES = {                                                      # table 4: one look a block, every 4th, every 7th
    "flamingo-3b": Config(every=1, language=Part("gpt2", {"dim": 2048, "layers": 24, "heads": 16})),
    "flamingo-80b": Config(every=7, language=Part("gpt2", CHINCHILLA)),
}

PARTS = (("resampler.latents", "resampler.widen.{x}", "resampler.norm.{x}")
         + tuple(f"resampler.layers.{{i}}.{part}.{{x}}" for part in (
             "norm", "norm_source", "norm_mlp", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"))
         + tuple(f"looks.{{i}}.{part}.{{x}}" for part in (
             "norm", "norm_mlp", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"))
         + ("looks.{i}.gate", "looks.{i}.gate_mlp"))


def _names(c: Config) -> NameMap:
    """Both networks' own rows, each under its name, and what is ours under the same names."""
    language, vision = (registry.load("models", part.name).HF.choose(inner)
                        for part, inner in zip((c.language, c.vision), c.inner(), strict=True))
    alone = "" if c.vision.name == "clip" else "vision."
    seen = [row for row in vision.under(alone, lambda name: "vision." + name)
            if row[0].startswith(("vision.", "{tower}."))]
    return NameMap(*language.under("language.", lambda name: "language." + name), *seen,
                   *((name, name) for name in PARTS))


HF = NameMaps(_names)


def _read(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("language", "vision"):
        tree = nested(whole, f"{part}_config.")
        entry = registry.load("models", tree.pop("family"))
        found[part] = {"name": entry.__name__.rpartition(".")[2],
                       "fields": entry.HF_CONFIG.restore(tree, f"{part}_config")}
    return {**found, "vocab": found["language"]["fields"]["vocab"],
            "context": found["language"]["fields"]["context"]}


def _write(c: Config, kind: Kind) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, part, inner in zip(("language", "vision"), (c.language, c.vision), c.inner(), strict=True):
        tree = {"family": part.name, **registry.load("models", part.name).HF_CONFIG.export(inner)}
        keys |= {f"{name}_config.{key}": value for key, value in tree.items()}
    return keys


HF_CONFIG = FieldMap(                                          # ours alone: transformers has no Flamingo
    Kind("FlamingoForConditionalGeneration", "meristem_flamingo"),
    rows=(("image_token", "image_token_index"), ("latents", "num_latents"), ("resampler", "resampler_layers"),
          ("every", "cross_attention_every"), ("heads", "cross_attention_heads")),
    fixed={}, groups=(Group(("language_config.*", "vision_config.*"), _read, _write),))
