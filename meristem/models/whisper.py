"""Whisper: an encoder of log-mel frames and a decoder that writes what was said, with the times if it is asked to.

Radford et al. 2022, https://arxiv.org/abs/2212.04356 (section 2.2, table 1): two convolutions halve 100 frames a second
to 50, sinusoids in the encoder, learned positions in the decoder, keys without a bias, the head is the embedding.
`Config.head` "audio" is the encoder alone with classes of sounds. Frames: codecs/audio.py; times: generate/listen.py.

    model = Model(SIZES["whisper-tiny"])
    logits = model(tokens, frames)                              # tokens start with config.start
    cache = model.caches(model.encode(frames), length=64)
    logits = model(tokens, positions=positions, cache=cache)
"""
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.names import GENERATION, FieldMap, Group, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Cache, CrossAttention, Reach
from meristem.nn.cross import LayerCache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm
from meristem.nn.sound import Conv, Stem


@dataclass(frozen=True)
class Config:
    """A Whisper's shape; decoder_layers, decoder_heads and both hidden 0: as the encoder's, 4 dim."""

    head: Literal["lm", "none", "audio"] = "lm"
    vocab: int = 51865
    context: int = 448                  # places of a text
    places: int = 1500                  # of the encoder: twice as many frames, 20 ms each
    mels: int = 80
    rate: int = 16_000                  # samples a second; frames are rate / 100 apart, windows rate / 40 wide
    dim: int = 384
    layers: int = 4
    heads: int = 6
    hidden: int = 0
    decoder_layers: int = 0
    decoder_heads: int = 0
    decoder_hidden: int = 0
    project: int = 256                  # width before the classes
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    activation: Activation = "gelu"
    start: int = 50258                  # the token that every text starts from
    end: int = 50257
    std: float = 0.02
    dropout: float = 0.0                # of what enters and of every branch

    def __post_init__(self) -> None:
        def usual(name: str, value: int) -> None:
            object.__setattr__(self, name, getattr(self, name) or value)
        usual("hidden", 4 * self.dim)
        usual("decoder_layers", self.layers)
        usual("decoder_heads", self.heads)
        usual("decoder_hidden", 4 * self.dim)
        if self.start >= self.vocab:                           # a vocabulary without marks: texts begin with its end
            object.__setattr__(self, "start", self.end)
        if self.dim % self.heads or self.dim % self.decoder_heads or self.dim % 2:
            raise ValueError(f"dim ({self.dim}) must be even and a multiple of heads ({self.heads}) and decoder_heads "
                             f"({self.decoder_heads})")

    @property
    def samples(self) -> int:
        """Of the sound that the encoder hears."""
        return 2 * self.places * (self.rate // 100)


class Block(nn.Module):
    """x + attention(norm x), in the decoder x + cross(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config, decoder: bool):
        super().__init__()
        heads, hidden = (c.decoder_heads, c.decoder_hidden) if decoder else (c.heads, c.hidden)
        self.norm1, self.norm3 = LayerNorm(c.dim), LayerNorm(c.dim)
        self.attn = Attention(c.dim, heads, bias=True, reach=Reach(causal=decoder))
        self.attn.k = Linear(c.dim, c.dim, bias=False)
        if decoder:
            self.norm2 = LayerNorm(c.dim)
            self.cross = CrossAttention(c.dim, heads, bias=True)
            self.cross.k = Linear(c.dim, c.dim, bias=False)
        self.mlp = MLP(c.dim, hidden, c.activation)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "B S D"] | None = None,
                positions: Int[Tensor, "B T"] | None = None, cache: LayerCache | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]; the encoder's output comes as `memory`, or as keys in the cache."""
        x = x + self.drop(self.attn(self.norm1(x), None, positions, cache.own if cache else None, segments))
        if cache:
            x = x + self.drop(self.cross(self.norm2(x), cache.keys, cache.seen))
        elif memory is not None:
            x = x + self.drop(self.cross(self.norm2(x), self.cross.keys(memory)))
        return x + self.drop(self.mlp(self.norm3(x)))


class Encoder(nn.Module):
    """Frames -> normalised vectors, one for two frames."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.conv1 = Stem(c.mels, c.dim, 3, padding=1)
        self.conv2 = Conv(c.dim, c.dim, 3, stride=2, padding=1)
        self.position = Embedding(c.places, c.dim)
        self.position.weight.requires_grad_(False)
        self.blocks = nn.ModuleList(Block(c, decoder=False) for _ in range(c.layers))
        self.norm, self.drop = LayerNorm(c.dim), nn.Dropout(c.dropout)

    def forward(self, frames: Float[Tensor, "B M N"]) -> Float[Tensor, "B S D"]:
        """RequestError for sounds of another length than the model was made for."""
        c = self.config
        if frames.shape[1:] != (c.mels, 2 * c.places):
            raise RequestError(f"this model hears {c.mels} x {2 * c.places} frames ({c.samples / c.rate:g} seconds), "
                               f"not {frames.shape[1]} x {frames.shape[2]}: cut or pad the sound (codecs.audio.fit)")
        x = F.gelu(self.conv2(F.gelu(self.conv1(frames)))).mT
        x = self.drop(x + self.position.weight.to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(nn.Module):
    """Tokens and the encoder's output -> normalised vectors."""

    def __init__(self, c: Config):
        super().__init__()
        self.embed, self.position = Embedding(c.vocab, c.dim), Embedding(c.context, c.dim)
        self.blocks = nn.ModuleList(Block(c, decoder=True) for _ in range(c.decoder_layers))
        self.norm, self.drop = LayerNorm(c.dim), nn.Dropout(c.dropout)


class Model(nn.Module):
    """Frames and the text so far -> logits of the next token; with head "audio" frames -> classes."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.encoder = Encoder(c)
        self.decoder = Decoder(c) if c.head != "audio" else None
        self.project = Linear(c.dim, c.project) if c.head == "audio" else None
        if c.head == "audio":
            self.head = Linear(c.project, len(c.labels))
        elif self.decoder is not None:
            self.head = Linear(c.dim, c.vocab, bias=False)
            self.head.weight = self.decoder.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, std), biases 0; the encoder's places are sinusoids and stay so."""
        for module in self.modules():
            if isinstance(module, Linear | Embedding | nn.Conv1d):
                nn.init.normal_(module.weight, std=self.config.std)
            if isinstance(module, Linear | nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.encoder.position.weight.copy_(sinusoids(*self.encoder.position.weight.shape))

    def encode(self, source: Float[Tensor, "B M N"], source_segments: Tensor | None = None) -> Float[Tensor, "B S D"]:
        """The encoder's normalised output; silence is heard like any sound, so no segments are needed."""
        return self.encoder(source)

    def pool(self, features: Float[Tensor, "B S D"]) -> Float[Tensor, "B D"]:
        """The mean over time."""
        return features.mean(1)

    def features(self, tokens: Int[Tensor, "B T"], source: Float[Tensor, "B M N"] | None = None,
                 positions: Int[Tensor, "B T"] | None = None, cache: list[LayerCache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The decoder's output as the head takes it. Needs `source` (frames) or `cache`."""
        if self.decoder is None:
            raise RequestError("this Whisper is an encoder with classes: call it with frames")
        if cache is None and source is None:
            raise RequestError("a Whisper writes after hearing a sound; give frames, or use generate.listen")
        memory = None if cache or source is None else self.encoder(source)
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        x = self.decoder.drop(self.decoder.embed(tokens) + self.decoder.position(at))
        for i, block in enumerate(self.decoder.blocks):
            x = block(x, memory, positions, cache[i] if cache else None, segments)
        return self.decoder.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"] | None = None, source: Float[Tensor, "B M N"] | None = None,
                positions: Int[Tensor, "B T"] | None = None, cache: list[LayerCache] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B *T V"]:
        """Logits [B, T, V]; of an encoder with classes [B, L], and of head "none" features [B, T, D]."""
        if self.project is not None:
            assert source is not None, "give frames"
            return self.head(self.pool(self.project(self.encoder(source))))
        assert tokens is not None, "give the text so far"
        x = self.features(tokens, source, positions, cache, segments)
        return x if self.config.head == "none" else self.head(x)

    def caches(self, memory: Float[Tensor, "B S D"], length: int,
               source_segments: Tensor | None = None) -> list[LayerCache]:
        """Buffers for at most `length` tokens, and each layer's keys of the encoder's output, computed once."""
        assert self.decoder is not None
        c, dtype = self.config, self.decoder.embed.compute or self.decoder.embed.weight.dtype
        seen = torch.ones(len(memory), 1, memory.shape[1], dtype=torch.bool)
        crosses = (block.get_submodule("cross") for block in self.decoder.blocks)
        return [LayerCache(Cache(len(memory), c.decoder_heads, length, c.dim // c.decoder_heads, dtype),
                           cross.keys(memory), seen) for cross in crosses if isinstance(cross, CrossAttention)]


def sinusoids(length: int, dim: int) -> Float[Tensor, "length dim"]:
    """Sines, then cosines, of periods from 2 pi to 10,000 times that."""
    rates = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2)) if dim > 2 else torch.ones(1)
    angle = torch.arange(length)[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)


def _size(dim: int, layers: int, heads: int, **more: int) -> Config:
    return Config(dim=dim, layers=layers, heads=heads, **more)             # type: ignore[arg-type]


SIZES = {                                                       # table 1; v3 and turbo: openai/whisper's code
    "whisper-tiny": _size(384, 4, 6),
    "whisper-base": _size(512, 6, 8),
    "whisper-small": _size(768, 12, 12),
    "whisper-medium": _size(1024, 24, 16),
    "whisper-large": _size(1280, 32, 20),
    "whisper-large-v3": _size(1280, 32, 20, mels=128, vocab=51866),
    "whisper-turbo": _size(1280, 32, 20, mels=128, vocab=51866, decoder_layers=4),
}

LAYER = (("norm1", "self_attn_layer_norm"), ("attn.q", "self_attn.q_proj"), ("attn.k", "self_attn.k_proj"),
         ("attn.v", "self_attn.v_proj"), ("attn.o", "self_attn.out_proj"), ("norm2", "encoder_attn_layer_norm"),
         ("cross.q", "encoder_attn.q_proj"), ("cross.k", "encoder_attn.k_proj"), ("cross.v", "encoder_attn.v_proj"),
         ("cross.o", "encoder_attn.out_proj"), ("norm3", "final_layer_norm"), ("mlp.up", "fc1"), ("mlp.down", "fc2"))


@functools.cache
def names(head: str) -> NameMap:
    """The tensor names with one head: only that of the text puts the body under a name."""
    body = "model." if head == "lm" else ""
    return NameMap(
        *((f"{{stack}}.blocks.{{i}}.{ours}.{{x}}", f"{body}{{stack}}.layers.{{i}}.{theirs}.{{x}}")
          for ours, theirs in LAYER),
        ("encoder.conv{n}.{x}", f"{body}encoder.conv{{n}}.{{x}}"),
        ("{stack}.position.weight", f"{body}{{stack}}.embed_positions.weight"),
        ("{stack}.norm.{x}", f"{body}{{stack}}.layer_norm.{{x}}"),
        ("decoder.embed.weight", f"{body}decoder.embed_tokens.weight"),
        ("project.{x}", "projector.{x}"), ("head.{x}", "proj_out.{x}" if head == "lm" else "classifier.{x}"))


HF = NameMaps(lambda config: names(config.head))


class _Fields(FieldMap):
    """Masking of frames and settings of generation stand in their config; neither changes what is computed here."""

    def restore(self, tree: Any, source: str = "config.json") -> dict[str, Any]:
        """config.json -> our config's fields."""
        told = ("apply_spec_augment", "mask_time_", "mask_feature_", "median_filter_width", "is_encoder_decoder",
                "encoder_layerdrop", "decoder_layerdrop", "num_hidden_layers", "alignment_heads",
                *(word.rstrip("*") for word in GENERATION))
        return super().restore({k: v for k, v in tree.items() if not k.startswith(told)}, source)


def _padding(config: Config, kind: Kind) -> dict[str, Any]:
    """Theirs must lie in the vocabulary, and by default it does not in a small one."""
    return {"pad_token_id": config.end, "bos_token_id": config.end}


HF_CONFIG = _Fields(
    Kind("WhisperForConditionalGeneration", "whisper", {"head": "lm"}),
    Kind("WhisperModel", "whisper", {"head": "none"}),
    Kind("WhisperForAudioClassification", "whisper", {"head": "audio"}),
    rows=(("vocab", "vocab_size", 51865), ("context", "max_target_positions", 448),
          ("places", "max_source_positions", 1500), ("mels", "num_mel_bins", 80), ("rate", "sampling_rate", 16_000),
          ("dim", "d_model", 384), ("layers", "encoder_layers", 4), ("heads", "encoder_attention_heads", 6),
          ("hidden", "encoder_ffn_dim", 1536), ("decoder_layers", "decoder_layers", 4),
          ("decoder_heads", "decoder_attention_heads", 6), ("decoder_hidden", "decoder_ffn_dim", 1536),
          ("project", "classifier_proj_size", 256), ("activation", "activation_function", "gelu"),
          ("start", "decoder_start_token_id", 50257), ("end", "eos_token_id", 50256), ("std", "init_std", 0.02),
          ("dropout", "dropout", 0.0)),
    fixed={"scale_embedding": False, "use_weighted_layer_sum": False, "tie_word_embeddings": True}, labels="labels",
    groups=(Group((), lambda whole, kind: {}, _padding),))
