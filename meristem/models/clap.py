"""CLAP: one encoder for sounds and one for texts, whose vectors lie together when the two belong together.

Wu et al. 2022, https://arxiv.org/abs/2211.06687 (section 3; LAION's published models without feature fusion). The
audio tower is HTS-AT (Chen et al. 2022, https://arxiv.org/abs/2202.00874): log-mel frames are cut into `spec / mels`
stretches of time that lie one below the other as a square picture, which a Swin transformer reads (Liu et al. 2021,
https://arxiv.org/abs/2103.14030, section 3: attention inside windows, every other layer's windows shifted by half,
places merged by fours between the stages). The text tower is RoBERTa's. In Python:

    model = Model(SIZES["clap-htsat-unfused"])
    model.logits(*model(frames, tokens))                       # [B, 64, F] and [M, T] -> [sounds, texts]

A text ends at `end`, which also fills it up; such places are not seen. Frames are those of codecs/audio.py, by default
as the published weights want them: windows of 1,024 samples at 48 kHz, bands up to 14 kHz, in decibels.
"""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.names import FieldMap, Group, Kind, NameMap, nested
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm
from meristem.nn.patch import Patches

WIDER = 4                               # an MLP's inner width over its outer one, in the audio tower
EPS, TEXT_EPS = 1e-5, 1e-12


@dataclass(frozen=True)
class Text:
    """The shape of the text tower; hidden 0 means 4 dim."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")


@dataclass(frozen=True)
class Config:
    """Both towers. A stage has `depths` layers of `heads` heads and twice the width of the one before, from `dim`."""

    kind: Literal["clap"] = "clap"
    vocab: int = 50265
    context: int = 512                  # places of a text
    end: int = 1
    text: Text = field(default_factory=Text)
    rate: int = 48_000                  # samples a second; frames are rate / 100 apart
    seconds: float = 10.0               # of a sound
    mels: int = 64
    fft: int = 1024                     # samples of a window; 0: 25 ms
    top: float = 14_000.0               # Hz of the highest band; 0: rate / 2
    decibels: bool = True               # False: frames as Whisper hears them
    spec: int = 256                     # side of the picture that the frames become
    patch: int = 4
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 8                     # side of a window in places
    project: int = 512

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads) or not self.depths:
            raise ValueError(f"depths {self.depths} and heads {self.heads} are one number a stage each")
        if self.dim % self.heads[0] or any(self.dim * 2**i % heads for i, heads in enumerate(self.heads)):
            raise ValueError(f"the width of a stage (dim {self.dim}, doubled each) must be a multiple of its heads "
                             f"{self.heads}")
        if self.spec % self.mels or self.spec % self.patch:
            raise ValueError(f"spec ({self.spec}) must be a multiple of mels ({self.mels}) and of patch ({self.patch})")
        if any(side % self.window for side in self.sides) or self.grid % 2**(len(self.depths) - 1):
            raise ValueError(f"stages of {', '.join(map(str, self.sides))} places a side do not divide into windows of "
                             f"{self.window}")

    @property
    def grid(self) -> int:
        """Places along a side before the first stage."""
        return self.spec // self.patch

    @property
    def sides(self) -> list[int]:
        """Places along a side in each stage."""
        return [self.grid // 2**i for i in range(len(self.depths))]

    @property
    def frames(self) -> int:
        """The most frames that a sound may have: the picture holds spec / mels stretches of spec each."""
        return self.spec * (self.spec // self.mels)

    @property
    def samples(self) -> int:
        """How many samples of a sound are heard."""
        return int(self.rate * self.seconds)


class Window(nn.Module):
    """x + attention(norm(x)) inside windows, moved by `shift` places, then x + mlp(norm(x)); [B, side, side, D]."""

    where: Tensor

    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int):
        super().__init__()
        self.window, self.shift = window, shift if side > window else 0
        self.norm1, self.norm2 = LayerNorm(dim, EPS), LayerNorm(dim, EPS)
        self.attn = Attention(dim, heads, bias=True, reach=Reach(causal=False))
        self.mlp = MLP(dim, WIDER * dim)
        self.near = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))    # a bias for each way between two places
        at = torch.arange(window)
        away = (at[:, None] - at[None] + window - 1).long()                    # [w, w]: from 0 to 2 w - 2
        which = away[:, None, :, None] * (2 * window - 1) + away[None, :, None, :]
        self.register_buffer("where", which.reshape(window**2, window**2))

    def forward(self, x: Float[Tensor, "B S S D"]) -> Float[Tensor, "B S S D"]:
        """One layer."""
        side, shift = x.shape[1], self.shift
        y = self.norm1(x)
        y = torch.roll(y, (-shift, -shift), (1, 2)) if shift else y
        near = self.near[self.where].permute(2, 0, 1)                          # [H, w*w, w*w]
        apart = self._regions(side, x.device).repeat(len(x), 1) if shift else None
        y = _joined(self.attn(_windows(y, self.window), segments=apart, bias=near), self.window, side)
        y = torch.roll(y, (shift, shift), (1, 2)) if shift else y
        x = x + y
        return x + self.mlp(self.norm2(x))

    def _regions(self, side: int, device: torch.device) -> Int[Tensor, "N T"]:
        """Places of a shifted picture that were neighbours before have one number, in each window."""
        at = torch.arange(side, device=device)
        third = (at >= side - self.window).long() + (at >= side - self.shift).long()
        return _windows((3 * third[:, None] + third[None])[None, :, :, None], self.window)[..., 0]


def _windows(x: Tensor, window: int) -> Tensor:
    """[B, S, S, D] -> [B * windows, window * window, D]."""
    return x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3).flatten(0, 2).flatten(1, 2)


def _joined(x: Tensor, window: int, side: int) -> Tensor:
    """The inverse of `_windows`."""
    rows = side // window
    return x.unflatten(1, (window, window)).unflatten(0, (-1, rows, rows)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Merge(nn.Module):
    """Four neighbours become one place of twice the width."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.reduce = LayerNorm(4 * dim, EPS), Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "B S S D"]) -> Float[Tensor, "B s s E"]:
        """[B, S, S, D] -> [B, S / 2, S / 2, 2 D]."""
        corners = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduce(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """Layers whose windows are shifted every other time, then the merge to the next stage's width."""

    def __init__(self, c: Config, number: int):
        super().__init__()
        dim = c.dim * 2**number
        self.blocks = nn.ModuleList(Window(dim, c.heads[number], c.sides[number], c.window, i % 2 * (c.window // 2))
                                    for i in range(c.depths[number]))
        self.merge = Merge(dim) if number + 1 < len(c.depths) else None

    def forward(self, x: Float[Tensor, "B S S D"]) -> Float[Tensor, "B s s E"]:
        """All layers of the stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.merge is None else self.merge(x)


class Audio(nn.Module):
    """Log-mel frames -> a vector a sound: the mean of all places of the last stage."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.level = nn.BatchNorm1d(c.mels)
        self.patches, self.before = Patches(1, c.dim, c.patch), LayerNorm(c.dim, EPS)
        self.stages = nn.ModuleList(Stage(c, number) for number in range(len(c.depths)))
        self.norm = LayerNorm(c.dim * 2**(len(c.depths) - 1), EPS)

    def forward(self, source: Float[Tensor, "B M F"]) -> Float[Tensor, "B E"]:
        """[B, mels, F] with at most `config.frames` frames -> [B, E]; RequestError for others."""
        c = self.config
        if source.shape[1] != c.mels or source.shape[2] > c.frames:
            raise RequestError(f"this model hears {c.mels} bands of at most {c.frames} frames, not "
                               f"{source.shape[1]} x {source.shape[2]}")
        x = self.level(source.float()).mT[:, None]                             # [B, 1, F, M]
        if x.shape[2] < c.frames:
            x = F.interpolate(x, (c.frames, c.mels), mode="bicubic", align_corners=True)
        x = x.unflatten(2, (-1, c.spec)).permute(0, 1, 2, 4, 3).flatten(2, 3)  # [B, 1, spec, spec]
        x = self.before(self.patches(x)).unflatten(1, (c.grid, c.grid))
        for stage in self.stages:
            x = stage(x)
        return self.norm(x).flatten(1, 2).mean(1)


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, t: Text):
        super().__init__()
        self.attn = Attention(t.dim, t.heads, bias=True, reach=Reach(causal=False))
        self.mlp = MLP(t.dim, t.hidden)
        self.norm1, self.norm2 = LayerNorm(t.dim, TEXT_EPS), LayerNorm(t.dim, TEXT_EPS)

    def forward(self, x: Float[Tensor, "B T D"], segments: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """One layer."""
        x = self.norm1(x + self.attn(x, segments=segments))
        return self.norm2(x + self.mlp(x))


class Words(nn.Module):
    """Token ids -> a vector a text: tanh of a layer over the first token's, as RoBERTa pools."""

    places: Tensor
    types: Tensor

    def __init__(self, c: Config):
        super().__init__()
        t, count = c.text, c.context + c.end + 1               # positions count from end + 1 on, as in fairseq
        self.end = c.end
        self.embed, self.position, self.kind = Embedding(c.vocab, t.dim), Embedding(count, t.dim), Embedding(1, t.dim)
        self.norm = LayerNorm(t.dim, TEXT_EPS)
        self.blocks = nn.ModuleList(Block(t) for _ in range(t.layers))
        self.pooler = Linear(t.dim, t.dim)
        self.register_buffer("places", torch.arange(count)[None])              # the published files have both
        self.register_buffer("types", torch.zeros(1, count, dtype=torch.long))

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """[B, T] -> [B, D]; places of `end` are not seen."""
        real = (tokens != self.end).long()
        at = self.places[0][real.cumsum(1) * real + self.end]
        x = self.norm(self.embed(tokens) + self.position(at) + self.kind(self.types[:, :tokens.shape[1]]))
        for block in self.blocks:
            x = block(x, 1 - real)
        return torch.tanh(self.pooler(x[:, 0]))


class Into(nn.Module):
    """A tower's vectors into the space that both share."""

    def __init__(self, dim: int, project: int):
        super().__init__()
        self.up, self.down = Linear(dim, project), Linear(project, project)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """[B, D] -> [B, E]."""
        return self.down(F.relu(self.up(x)))


class Model(nn.Module):
    """Both towers, the space they share and a scale for each way to ask."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.audio, self.text = Audio(c), Words(c)
        self.audio_map = Into(c.dim * 2**(len(c.depths) - 1), c.project)
        self.text_map = Into(c.text.dim, c.project)
        self.scale, self.text_scale = (nn.Parameter(torch.tensor(2.6592)) for _ in range(2))       # ln(1 / 0.07)
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, 1 / (4 inputs)), tables Normal(0, 0.02), biases 0."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def embed_audio(self, source: Float[Tensor, "B M F"]) -> Float[Tensor, "B E"]:
        """Vectors of length 1."""
        return F.normalize(self.audio_map(self.audio(source)).float(), dim=-1)

    def embed_texts(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Vectors of length 1."""
        return F.normalize(self.text_map(self.text(tokens)).float(), dim=-1)

    def logits(self, sounds: Float[Tensor, "B E"], texts: Float[Tensor, "N E"]) -> Float[Tensor, "B N"]:
        """How well texts fit each sound: scaled cosines."""
        return self.scale.exp() * sounds @ texts.T

    def text_logits(self, sounds: Float[Tensor, "B E"], texts: Float[Tensor, "N E"]) -> Float[Tensor, "B N"]:
        """How well sounds fit each text (a column): the same with the other scale."""
        return self.text_scale.exp() * sounds @ texts.T

    def forward(self, source: Float[Tensor, "B M F"], tokens: Int[Tensor, "N T"]) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of the sounds [B, E] and of the texts [M, E]."""
        return self.embed_audio(source), self.embed_texts(tokens)


SIZES = {"clap-htsat-unfused": Config()}

IN, OUT = "audio.stages.{i}.", "audio_model.audio_encoder.layers.{i}."
SWIN = tuple((f"{IN}blocks.{{j}}.{ours}", f"{OUT}blocks.{{j}}.{theirs}") for ours, theirs in (
    ("norm1.{x}", "layernorm_before.{x}"), ("norm2.{x}", "layernorm_after.{x}"),
    ("attn.q.{x}", "attention.self.query.{x}"), ("attn.k.{x}", "attention.self.key.{x}"),
    ("attn.v.{x}", "attention.self.value.{x}"), ("attn.o.{x}", "attention.output.dense.{x}"),
    ("near", "attention.self.relative_position_bias_table"), ("mlp.up.{x}", "intermediate.dense.{x}"),
    ("mlp.down.{x}", "output.dense.{x}"), ("where", "attention.self.relative_position_index")))
ROBERTA = tuple((f"text.blocks.{{i}}.{ours}.{{x}}", f"text_model.encoder.layer.{{i}}.{theirs}.{{x}}")
                for ours, theirs in (
    ("attn.q", "attention.self.query"), ("attn.k", "attention.self.key"), ("attn.v", "attention.self.value"),
    ("attn.o", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"), ("mlp.up", "intermediate.dense"),
    ("mlp.down", "output.dense"), ("norm2", "output.LayerNorm")))
HF = NameMap(
    ("scale", "logit_scale_a"), ("text_scale", "logit_scale_t"),
    ("audio.patches.{x}", "audio_model.audio_encoder.patch_embed.proj.{x}"),
    ("audio.before.{x}", "audio_model.audio_encoder.patch_embed.norm.{x}"),
    ("audio.norm.{x}", "audio_model.audio_encoder.norm.{x}"),
    (f"{IN}merge.norm.{{x}}", f"{OUT}downsample.norm.{{x}}"),
    (f"{IN}merge.reduce.{{x}}", f"{OUT}downsample.reduction.{{x}}"), *SWIN, *ROBERTA,
    ("text.embed.{x}", "text_model.embeddings.word_embeddings.{x}"),
    ("text.position.{x}", "text_model.embeddings.position_embeddings.{x}"),
    ("text.kind.{x}", "text_model.embeddings.token_type_embeddings.{x}"),
    ("text.norm.{x}", "text_model.embeddings.LayerNorm.{x}"), ("text.pooler.{x}", "text_model.pooler.dense.{x}"),
    ("text.places", "text_model.embeddings.position_ids"), ("text.types", "text_model.embeddings.token_type_ids"),
    ("{tower}_map.up.{x}", "{tower}_projection.linear1.{x}"),
    ("{tower}_map.down.{x}", "{tower}_projection.linear2.{x}"),
    ("audio.level.{x}", "audio_model.audio_encoder.batch_norm.{x}"))

STARTS = ("initializer_factor", "projection_dim")              # how a fresh model begins, or said above
INNER = {
    "text": FieldMap(
        Kind("ClapTextModel", "clap_text_model"),
        rows=(("vocab", "vocab_size", 50265), ("end", "pad_token_id", 1), ("dim", "hidden_size", 768),
              ("layers", "num_hidden_layers", 12), ("heads", "num_attention_heads", 12),
              ("hidden", "intermediate_size", 3072), ("positions", "max_position_embeddings", 514)),
        fixed={"hidden_act": "gelu", "layer_norm_eps": TEXT_EPS, "type_vocab_size": 1, "projection_hidden_act": "relu"},
        groups=(Group((*STARTS, "position_embedding_type", "classifier_dropout"), lambda whole, kind: {},
                      lambda config, kind: {}),)),
    "audio": FieldMap(
        Kind("ClapAudioModel", "clap_audio_model"),
        rows=(("mels", "num_mel_bins", 64), ("spec", "spec_size", 256), ("patch", "patch_size", 4),
              ("dim", "patch_embeds_hidden_size", 96), ("depths", "depths", (2, 2, 6, 2)),
              ("heads", "num_attention_heads", (4, 8, 16, 32)), ("window", "window_size", 8)),
        fixed={"hidden_act": "gelu", "layer_norm_eps": EPS, "mlp_ratio": float(WIDER), "qkv_bias": True,
               "enable_fusion": False, "flatten_patch_embeds": True, "enable_patch_layer_norm": True,
               "patch_embed_input_channels": 1, "projection_hidden_act": "relu"},
        groups=(Group((*STARTS, "hidden_size", "patch_stride", "num_classes", "aff_block_r", "fusion_type",
                       "drop_path_rate", "num_hidden_layers"), lambda whole, kind: {}, lambda config, kind: {}),))}


def _read(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    text, audio = (inner.restore({**nested(whole, f"{part}_config."), "architectures": [inner.kinds[0].architecture]},
                                 f"{part}_config") for part, inner in INNER.items())
    stride, wide = whole.get("audio_config.patch_stride", audio["patch"]), audio["dim"] * 2**(len(audio["depths"]) - 1)
    if any(step != audio["patch"] for step in (stride if isinstance(stride, list | tuple) else [stride])):
        raise ValueError(f"patch_stride = {stride!r} is not supported (only patch_size, {audio['patch']})")
    if (said := whole.get("audio_config.hidden_size", 768)) != wide:
        raise ValueError(f"audio_config.hidden_size = {said} is not the width of the last stage, {wide}")
    vocab, end, positions = (text.pop(key) for key in ("vocab", "end", "positions"))
    return {"vocab": vocab, "end": end, "context": positions - end - 1, "text": text, **audio}


def _write(config: Config, kind: Kind) -> dict[str, Any]:
    t, stages = config.text, len(config.depths)
    text = {"vocab_size": config.vocab, "pad_token_id": config.end, "hidden_size": t.dim, "num_hidden_layers": t.layers,
            "num_attention_heads": t.heads, "intermediate_size": t.hidden,
            "max_position_embeddings": config.context + config.end + 1, "bos_token_id": config.end,
            "eos_token_id": config.end, "model_type": "clap_text_model"}
    audio = {theirs: getattr(config, ours) for ours, theirs, _ in INNER["audio"].rows}
    audio |= {"patch_stride": [config.patch] * 2, "hidden_size": config.dim * 2**(stages - 1),
              "num_hidden_layers": stages, "model_type": "clap_audio_model"}
    return {**{f"text_config.{key}": value for key, value in text.items()},
            **{f"audio_config.{key}": value for key, value in audio.items()}}


HF_CONFIG = FieldMap(
    Kind("ClapModel", "clap", {"kind": "clap"}),
    rows=(("project", "projection_dim", 512), ("rate", "sampling_rate", 48_000), ("seconds", "max_length_s", 10.0),
          ("fft", "fft_window_size", 1024), ("top", "frequency_max", 14_000.0), ("decibels", "decibels", True)),
    fixed={"projection_hidden_act": "relu"},
    groups=(Group(("text_config.*", "audio_config.*", "hidden_size", "num_hidden_layers", "initializer_factor",
                   "logit_scale_init_value"), _read, _write),))
