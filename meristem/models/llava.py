"""LLaVA: a decoder that reads pictures as words: a vision tower, a small projector, and any language model.

Liu et al. 2023, https://arxiv.org/abs/2304.08485 (section 4.1); 1.5: https://arxiv.org/abs/2310.03744 (a projector of
two layers, table 9). The patches of a picture, after the last layer but one of CLIP or SigLIP, pass the projector and
take the places of `image_tokens` tokens with the id `image_token`; several pictures of a row stand where its tokens
name them, in their order. `language` and `vision` name families and their fields. In Python:

    model = Model(Config(vocab=97, context=64, language=Part("llama", {...}), vision=Part("clip", {...})))
    model(tokens, images=images)                               # [B, T], [B, P, C, H, W] -> [B, T, V]
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.config import Part, build, known, to_dict
from meristem.core.names import FieldMap, Group, Kind, NameMap, NameMaps, nested
from meristem.nn.linear import Linear
from meristem.nn.mlp import ACTIVATIONS, Activation
from meristem.nn.slots import Pending, Slots, numbered

VICUNA = Part("llama", {"hidden": 11008})
VIT_L = Part("clip", {"image": 336, "patch": 14, "vision": {"dim": 1024, "layers": 24, "heads": 16}})


@dataclass(frozen=True)
class Config:
    """The two networks and what joins them; `image`, `channels` and `image_tokens` follow from the tower."""

    vocab: int = 32064
    context: int = 4096
    language: Part = VICUNA             # a decoder; vocab and context are those above
    vision: Part = VIT_L                # a clip of which the vision tower exists
    image_token: int = 32000
    layer: int = -2                     # of the tower: after which one patches are read, -1 the last
    whole: bool = False                 # the class token is read, too
    activation: Activation = "gelu"     # between the projector's layers
    bias: bool = True                   # in them
    image: int = 0
    channels: int = 0
    image_tokens: int = 0

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        language, tower = self.inner()
        if not 0 < self.image_token < self.vocab:
            raise ValueError(f"image_token ({self.image_token}) must be an id of the vocabulary of {self.vocab}, not 0")
        if tower.kind == "siglip" and not self.whole:
            raise ValueError("SigLIP has no class token to leave out: set whole=true")
        set_(self, "language", Part(self.language.name, to_dict(language)))
        set_(self, "vision", Part(self.vision.name, to_dict(tower)))
        set_(self, "image", tower.image)
        set_(self, "channels", tower.channels)
        set_(self, "image_tokens", tower.grid**2 + (self.whole and tower.kind == "clip"))

    def inner(self) -> tuple[Any, Any]:
        """The configs of the language model and of the vision tower."""
        language = registry.load("models", self.language.name).Config
        tower = registry.load("models", self.vision.name).Config
        return (build(language, self.language, **known(language, vocab=self.vocab, context=self.context)),
                build(tower, self.vision, part="image"))


class Model(nn.Module):
    """Token ids and pictures -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        language, tower = c.inner()
        self.language = registry.load("models", c.language.name).Model(language)
        self.vision = registry.load("models", c.vision.name).Model(tower).vision
        self.language.embed = Slots.on(self.language.embed)
        self.first = Linear(tower.vision.dim, language.dim, c.bias)
        self.second = Linear(language.dim, language.dim, c.bias)
        for linear in (self.first, self.second):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            if c.bias:
                nn.init.zeros_(linear.bias)

    def see(self, images: Float[Tensor, "B *P C H W"]) -> Float[Tensor, "B M D"]:
        """What stands in the places of each row's pictures, one after another."""
        c = self.config
        x = self.vision.features(images.flatten(0, -4), c.layer)
        x = x if c.whole or self.vision.cls is None else x[:, 1:]
        x = self.second(ACTIVATIONS[c.activation](self.first(x)))
        return x.unflatten(0, (len(images), -1)).flatten(1, 2)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Any] | None = None, segments: Int[Tensor, "B T"] | None = None,
                 images: Float[Tensor, "B *P C H W"] | None = None) -> Float[Tensor, "B T D"]:
        """The language model's features; pictures of a row that goes through a cache were given to `caches`."""
        pending = next((entry for entry in cache or [] if isinstance(entry, Pending)), None)
        shown = self.see(images) if images is not None else pending.vectors if pending else None
        if shown is not None:
            tokens = numbered(tokens, self.config.image_token, shown.shape[1], pending)
        own = cache and [entry for entry in cache if entry is not pending]
        with self.language.embed.showing(shown):
            if segments is not None:
                return self.language.features(tokens, positions, own, segments)
            return self.language.features(tokens, positions, own)

    def head(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """The language model's."""
        return self.language.head(features)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Any] | None = None, segments: Int[Tensor, "B T"] | None = None,
                images: Float[Tensor, "B *P C H W"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V]."""
        return self.head(self.features(tokens, positions, cache, segments, images))

    def caches(self, batch: int, length: int, images: Float[Tensor, "B *P C H W"] | None = None) -> list[Any]:
        """The language model's buffers and, behind them, the pictures of each row, seen once."""
        made = self.language.caches(batch, length)
        return made if images is None else [*made, Pending(self.see(images))]


SIZES = {
    "llava-1.5-7b": Config(),                                  # LLaVA-1.5: Vicuna 7B or 13B, CLIP ViT-L/14 at 336
    "llava-1.5-13b": Config(language=Part("llama", {"dim": 5120, "layers": 40, "heads": 40, "hidden": 13824})),
}


def _names(c: Config) -> NameMap:
    """Both networks' own rows under the names of transformers 4 and 5, and the projector's."""
    language, tower = (registry.load("models", part.name).HF.choose(inner)
                       for part, inner in zip((c.language, c.vision), c.inner(), strict=True))
    rows = (tuple(word.replace("{tower}", "vision") for word in row) for row in tower.given)
    seen = [(ours, "vision_tower." + theirs.removeprefix("vision_model."), *how) for ours, theirs, *how in rows
            if ours.startswith("vision.")]
    return NameMap(*language.under("language.", lambda name: "language_model." + name), *seen,
                   ("first.{x}", "multi_modal_projector.linear_1.{x}"),
                   ("second.{x}", "multi_modal_projector.linear_2.{x}"),
                   ignore=("vision_tower.embeddings.position_ids",), begins=BEGINS)


BEGINS = (("vision_tower.vision_model.", "vision_tower."), ("model.language_model.", "language_model.model."),
          ("model.vision_tower.vision_model.", "vision_tower."), ("model.vision_tower.", "vision_tower."),
          ("model.multi_modal_projector.", "multi_modal_projector."), ("lm_head.", "language_model.lm_head."))
HF = NameMaps(_names)

# what a text_config and a vision_config leave out means the 7B Llama and CLIP's own defaults
LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "model_type": "llama"}
STRANGE = ("vocab_size",)               # in the vision_config of published files


def _inner(tree: dict[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    """The family and the fields of one part."""
    for name in registry.names("models"):
        maps = registry.load("models", name).HF_CONFIG
        if maps.kind(tree):
            return name, maps.restore(tree, key)
    raise ValueError(f"{key}: no family here is a {tree.get('model_type')}")


def _read(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    text, tower = nested(whole, "text_config."), nested(whole, "vision_config.")
    text = {**(LLAMA if text.get("model_type", "llama") == "llama" else {}), **text}
    tower = {key: value for key, value in {"model_type": "clip_vision_model", **tower}.items() if key not in STRANGE}
    language, fields = _inner(text, "text_config")
    if whole.get("tie_word_embeddings") and "tied" in fields:
        fields["tied"] = True
    vision, seen = _inner(tower, "vision_config")
    if (how := whole.get("vision_feature_select_strategy", "default")) not in ("default", "full"):
        raise ValueError(f"vision_feature_select_strategy = {how!r} is not supported (default or full)")
    return {"language": {"name": language, "fields": fields}, "vision": {"name": vision, "fields": seen},
            "vocab": fields["vocab"], "context": fields["context"], "whole": how == "full"}


def _write(c: Config, kind: Kind) -> dict[str, Any]:
    language, tower = c.inner()
    text, seen = (registry.load("models", part.name).HF_CONFIG.export(inner)
                  for part, inner in ((c.language, language), (c.vision, tower)))
    keys = {f"{begin}.{key}": value for begin, tree in (("text_config", text), ("vision_config", seen))
            for key, value in tree.items()}
    return {**keys, "vision_feature_select_strategy": "full" if c.whole else "default",
            "image_seq_length": c.image_tokens, "tie_word_embeddings": bool(vars(language).get("tied"))}


HF_CONFIG = FieldMap(
    Kind("LlavaForConditionalGeneration", "llava", when=lambda c: c.language.name == "llama"),
    Kind("AnyLlavaForConditionalGeneration", "meristem_llava"),        # with a decoder that transformers does not take
    rows=(("image_token", "image_token_index|image_token_id", 32000), ("layer", "vision_feature_layer", -2),
          ("activation", "projector_hidden_act", "gelu"), ("bias", "multimodal_projector_bias", True)),
    fixed={},
    groups=(Group(("text_config.*", "vision_config.*", "vision_feature_select_strategy", "image_seq_length",
                   "tie_word_embeddings", "ignore_index", "vocab_size"), _read, _write),))

