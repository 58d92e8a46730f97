"""The U-Net of diffusion models: DDPM's, and Stable Diffusion's with attention to a text.

Ho et al. 2020, https://arxiv.org/abs/2006.11239 (appendix B); Rombach et al. 2021, https://arxiv.org/abs/2112.10752
(section 3.3: cross-attention to a condition; tables 12 and 15). With `cross` 0 the levels marked in `attention` attend
over their pixels; with a width there, a transformer block at those levels attends to pixels and to the condition's
vectors. Read and written in diffusers' layout. In Python:

    model = Model(Config(channels=(64, 128), blocks=1, attention=(False, True), classes=10))
    model(images, time, labels=labels)                         # what was predicted, [B, outputs, H, W]
"""
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, FieldMaps, Group, Kind, NameMap, NameMaps, class_names
from meristem.nn.attention import Attention, CrossAttention, Reach
from meristem.nn.conv import Conv, Down, GroupNorm, PixelAttention, Residual, Stem, Up, pixels, sequence
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.norm import LayerNorm
from meristem.nn.timestep import TimeEmbedding


@dataclass(frozen=True)
class Config:
    """A U-Net's shape: each of `channels` is a level of half the size of the one before."""

    inputs: int = 4
    outputs: int = 0                    # 0: as many as inputs; twice as many where the variance is learned
    image: int = 64                     # side of what it was trained on
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2                     # residual blocks a level, one more on the way up
    attention: tuple[bool, ...] = (True, True, True, False)
    cross: int = 0                      # width of the condition's vectors
    heads: int = 8
    head_dim: int = 0                   # instead of a number of heads, their width
    depth: int = 1                      # transformer blocks at each place of attention
    linear: bool = False                # their way in and out is a linear layer (SD 2), not a 1 x 1 convolution
    groups: int = 32
    eps: float = 1e-5
    dropout: float = 0.0
    classes: int = 0                    # labels that are added to the time; leave one for "none"
    labels: tuple[str, ...] = ()        # their names, where they have some
    embedding: int = 0                  # width of a vector that is added to the time (unCLIP: an image's in CLIP)
    scaled: bool = False                # the time scales and shifts, not only shifts
    resize: Literal["conv", "residual"] = "conv"               # what halves and doubles: a convolution or a whole block
    flip: bool = True                   # time: cosines first
    shift: int = 0                      # time: 1 in DDPM's own code
    pad: bool = True                    # halving: False in DDPM's own code

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or self.inputs)
        if self.embedding and (self.classes or not self.cross):
            raise ValueError("embedding belongs to a U-Net with cross and without classes")
        if len(self.attention) != len(self.channels):
            raise ValueError(f"attention has {len(self.attention)} entries, channels {len(self.channels)}: one a level")
        for width in self.channels:
            if width % self.groups or width % (self.head_dim or self.heads):
                raise ValueError(f"channels ({width}) must be a multiple of groups ({self.groups}) and of heads")

    def heads_of(self, width: int) -> int:
        """Attention heads at a level of that width."""
        return width // self.head_dim if self.head_dim else self.heads


class Transformer(nn.Module):
    """x + attention(norm x), x + attention to the condition(norm x), x + mlp(norm x)."""

    def __init__(self, dim: int, c: Config):
        super().__init__()
        heads = c.heads_of(dim)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim) for _ in range(3))
        self.attn = Attention(dim, heads, bias=False, out_bias=True, reach=Reach(causal=False))
        self.cross = CrossAttention(dim, heads, source=c.cross)
        self.cross.o = Linear(dim, dim)
        self.mlp = GatedMLP(dim, 4 * dim, bias=True, activation="gelu")

    def forward(self, x: Float[Tensor, "B N D"], condition: Float[Tensor, "B S E"],
                seen: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B N D"]:
        """[B, N, D] -> the same."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross(self.norm2(x), self.cross.keys(condition), seen)
        return x + self.mlp(self.norm3(x))


class Spatial(nn.Module):
    """Transformer blocks over the pixels of an image."""

    def __init__(self, dim: int, c: Config):
        super().__init__()
        self.norm, self.linear = GroupNorm(c.groups, dim, 1e-6), c.linear
        self.into = Linear(dim, dim) if c.linear else Conv(dim, dim, 1)
        self.back = Linear(dim, dim) if c.linear else Conv(dim, dim, 1)
        self.blocks = nn.ModuleList(Transformer(dim, c) for _ in range(c.depth))

    def forward(self, x: Float[Tensor, "B C H W"], condition: Float[Tensor, "B S E"],
                seen: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> the same."""
        y = self.norm(x)
        y = self.into(sequence(y)) if self.linear else sequence(self.into(y))
        for block in self.blocks:
            y = block(y, condition, seen)
        return x + (pixels(self.back(y), x) if self.linear else self.back(pixels(y, x)))


class Level(nn.Module):
    """The blocks of one size on the way down or up; `inputs` are the channels that each residual block is given."""

    def __init__(self, inputs: list[int], outputs: int, c: Config, attends: bool, resize: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(residual(i, outputs, c) for i in inputs)
        self.attends = nn.ModuleList(attention(outputs, c) for _ in inputs) if attends else None
        self.resize = resize


class Model(nn.Module):
    """Noisy images and the time -> what the objective has it predict."""

    def __init__(self, c: Config):
        super().__init__()
        self.config, widths, last, time = c, c.channels, len(c.channels) - 1, 4 * c.channels[0]
        self.stem = Stem(c.inputs, widths[0], 3, padding=1)
        self.time = TimeEmbedding(widths[0], time, c.flip, c.shift)
        self.label = Embedding(c.classes, time) if c.classes else None
        self.meaning = Linear(c.embedding, time) if c.embedding else None
        kept = [widths[0]]                                     # channels of what the way up is shown again
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            given = [widths[max(0, i - 1)], *[width] * (c.blocks - 1)]
            self.down.append(Level(given, width, c, c.attention[i], resizing(width, "half", c) if i < last else None))
            kept += [width] * (c.blocks + (i < last))
        self.middle = nn.ModuleList([residual(widths[-1], widths[-1], c) for _ in range(2)])
        self.attend = attention(widths[-1], c)
        self.up = nn.ModuleList()
        before = widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            given = [b + kept.pop() for b in (before, *[width] * c.blocks)]
            self.up.append(Level(given, width, c, c.attention[i], resizing(width, "double", c) if i > 0 else None))
            before = width
        self.norm, self.out = GroupNorm(c.groups, widths[0], c.eps), Conv(widths[0], c.outputs, 3, padding=1)
        self.none = c.classes - 1                              # the label that stands for none
        self.initialise()

    def initialise(self) -> None:
        """What ends a branch begins at zero, so that the network begins as its skip connections (DDPM's code)."""
        for module in self.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, images: Float[Tensor, "B I H W"], time: Float[Tensor, "B"],
                condition: Float[Tensor, "B S E"] | None = None, seen: Bool[Tensor, "B S"] | None = None,
                labels: Int[Tensor, "B"] | None = None,
                embedding: Float[Tensor, "B V"] | None = None) -> Float[Tensor, "B O H W"]:
        """[B, inputs, H, W], steps [B] (may be fractional) -> [B, outputs, H, W]; H and W multiples of 2^(levels - 1).

        `condition` [B, S, cross] is attended to where `seen`; `labels` [B] < classes; `embedding` as wide as the config
        says, which is also the condition where `cross` is as wide and no other is given.
        """
        x = self.stem(images)
        t = self.time(time, x.dtype)
        if self.label is not None:
            assert labels is not None, "this U-Net is told a class: give labels"
            t = t + self.label(labels).to(x.dtype)
        if self.meaning is not None:
            assert embedding is not None, "this U-Net is told a vector: give an embedding"
            t = t + self.meaning(embedding.to(x.dtype))
            condition = embedding[:, None] if condition is None else condition
        given = None if condition is None else condition.to(x.dtype)
        mask = None if seen is None else seen[:, None]
        kept = [x]
        for level in self.down:
            assert isinstance(level, Level)
            for i, block in enumerate(level.blocks):
                x = self.look(block(x, t), level.attends, i, given, mask)
                kept.append(x)
            if level.resize is not None:
                x = level.resize(x, t) if isinstance(level.resize, Residual) else level.resize(x)
                kept.append(x)
        x = self.middle[0](x, t)
        x = self.middle[1](self.attend(x, given, mask) if self.config.cross else self.attend(x), t)
        for level in self.up:
            assert isinstance(level, Level)
            for i, block in enumerate(level.blocks):
                x = self.look(block(torch.cat([x, kept.pop()], 1), t), level.attends, i, given, mask)
            if level.resize is not None:
                x = level.resize(x, t) if isinstance(level.resize, Residual) else level.resize(x)
        return self.out(self.norm(x, True))

    def look(self, x: Float[Tensor, "B C H W"], attends: nn.ModuleList | None, i: int, condition: Tensor | None,
             seen: Tensor | None) -> Float[Tensor, "B C H W"]:
        """Attention after one residual block, at the levels that have it."""
        if attends is None:
            return x
        return attends[i](x, condition, seen) if self.config.cross else attends[i](x)


def residual(inputs: int, outputs: int, c: Config, resize: Literal["", "half", "double"] = "") -> Residual:
    """A residual block of this network."""
    return Residual(inputs, outputs, time=4 * c.channels[0], groups=c.groups, eps=c.eps, dropout=c.dropout,
                    scaled=c.scaled, resize=resize)


def resizing(width: int, resize: Literal["half", "double"], c: Config) -> nn.Module:
    """What leads to the next level."""
    if c.resize == "residual":
        return residual(width, width, c, resize)
    return Down(width, c.pad) if resize == "half" else Up(width)


def attention(width: int, c: Config) -> nn.Module:
    """What stands after a residual block: a transformer with a condition, else attention over the pixels."""
    return Spatial(width, c) if c.cross else PixelAttention(width, c.heads_of(width), groups=c.groups, eps=c.eps)


SIZES = {
    "sd1": Config(cross=768),                                           # Stable Diffusion 1.x
    "ddpm-cifar10": Config(inputs=3, image=32, channels=(128, 256, 256, 256), attention=(False, True, False, False),
                           heads=1, flip=False, shift=1, pad=False, eps=1e-6),             # DDPM appendix B
    "ldm-celebahq": Config(inputs=3, channels=(224, 448, 672, 896), attention=(False, True, True, True),
                           head_dim=32),                                # LDM table 12, as configs/latent-diffusion
    "ldm-cin256": Config(inputs=3, channels=(192, 384, 576, 960), attention=(False, True, True, True), heads=1,
                         cross=512),
    "ldm-txt2img": Config(image=32, cross=1280),
    "ldm-churches": Config(image=32, channels=(192, 384, 384, 768, 768), attention=(True, True, True, True, False),
                           scaled=True, resize="residual"),             # lsun_churches-ldm-kl-8
}

RESIDUAL = (("norm1", "norm1"), ("norm2", "norm2"), ("conv1", "conv1"), ("conv2", "conv2"), ("time", "time_emb_proj"),
            ("shortcut", "conv_shortcut"))
PIXEL = (("norm", "group_norm"), ("attn.q", "to_q"), ("attn.k", "to_k"), ("attn.v", "to_v"), ("attn.o", "to_out.0"))
TRANSFORMER = tuple((f"blocks.{{k}}.{a}", f"transformer_blocks.{{k}}.{b}") for a, b in (
    ("norm1", "norm1"), ("norm2", "norm2"), ("norm3", "norm3"), ("attn.q", "attn1.to_q"), ("attn.k", "attn1.to_k"),
    ("attn.v", "attn1.to_v"), ("attn.o", "attn1.to_out.0"), ("cross.q", "attn2.to_q"), ("cross.k", "attn2.to_k"),
    ("cross.v", "attn2.to_v"), ("cross.o", "attn2.to_out.0"), ("mlp.(up,gate)", "ff.net.0.proj"),
    ("mlp.down", "ff.net.2")))
SPATIAL = (("norm", "norm"), ("into", "proj_in"), ("back", "proj_out"), *TRANSFORMER)


@functools.cache
def names(cross: bool) -> NameMap:
    """The tensor names, with a condition or without."""
    inner = SPATIAL if cross else PIXEL
    places = [(f"{way}.{{i}}.attends.{{j}}", f"{way}_blocks.{{i}}.attentions.{{j}}") for way in ("down", "up")]
    places.append(("attend", "mid_block.attentions.0"))
    blocks = [(f"{way}.{{i}}.blocks.{{j}}", f"{way}_blocks.{{i}}.resnets.{{j}}") for way in ("down", "up")]
    blocks.append(("middle.{j}", "mid_block.resnets.{j}"))
    rows = [(f"{a}.{x}", f"{b}.{y}") for a, b in places for x, y in inner]
    rows += [(f"{a}.{x}", f"{b}.{y}") for a, b in blocks for x, y in RESIDUAL]
    rows += [(f"{way}.{{i}}.resize.conv", f"{way}_blocks.{{i}}.{way}samplers.0.conv") for way in ("down", "up")]
    rows += [(f"{way}.{{i}}.resize.{a}", f"{way}_blocks.{{i}}.{way}samplers.0.{b}") for way in ("down", "up")
             for a, b in RESIDUAL]
    rows += [("stem", "conv_in"), ("norm", "conv_norm_out"), ("out", "conv_out"), ("label", "class_embedding"),
             ("meaning", "class_embedding"),
             ("time.first", "time_embedding.linear_1"), ("time.second", "time_embedding.linear_2")]
    return NameMap(*((f"{a}.{end}", f"{b}.{end}") for a, b in rows for end in ("weight", "bias")), old=OLD)


OLD = tuple((f"attentions.{n}.{was}.{x}", f"attentions.{n}.{now}.{x}") for n in range(4) for was, now in
            (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
            for x in ("weight", "bias"))                                # names before diffusers 0.15

HF = NameMaps(lambda c: names(c.cross > 0))

PLAIN, WHOLE = ("DownBlock2D", "UpBlock2D"), ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
SEEING = {False: ("AttnDownBlock2D", "AttnUpBlock2D"),
          True: ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")}


def _levels(cross: bool, whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Which levels attend, from the names of the blocks, which must mirror each other; heads from either spelling."""
    down, up = list(whole["down_block_types"]), list(whole["up_block_types"])
    whole_blocks = not cross and whole.get("downsample_type") == "resnet"
    known = {WHOLE if whole_blocks else PLAIN: False, SEEING[cross]: True}
    pairs = list(zip(down, reversed(up), strict=True))
    if wrong := [pair for pair in pairs if pair not in known]:
        raise ValueError(f"blocks {wrong[0][0]} and {wrong[0][1]} at one level are not supported")
    heads = whole.get("attention_head_dim", 8)
    if isinstance(heads, list | tuple):
        if len(set(heads)) > 1:
            raise ValueError(f"attention_head_dim = {heads} is not supported (only one number)")
        heads = heads[0]
    levels = tuple(known[pair] for pair in pairs)
    found: dict[str, Any] = {"channels": tuple(whole["block_out_channels"]), "attention": levels}
    if not cross:
        ways = {whole.get(key) or "conv" for key in ("downsample_type", "upsample_type")}
        if ways not in ({"conv"}, {"resnet"}):
            raise ValueError(f"downsample_type and upsample_type are {' and '.join(sorted(ways))}: both conv or resnet")
        found["resize"] = "residual" if whole_blocks else "conv"
    shift = whole.get("resnet_time_scale_shift") or "default"
    if shift not in ("default", "scale_shift"):
        raise ValueError(f"resnet_time_scale_shift = {shift!r} is not supported (only default and scale_shift)")
    found["scaled"] = shift == "scale_shift"
    # theirs leaves the norm out of the middle's attention then, unless it is told its groups
    groups = whole.get("norm_num_groups", 32) if found["scaled"] else None
    if not cross and whole.get("attn_norm_num_groups") != groups:
        raise ValueError(f"attn_norm_num_groups = {whole.get('attn_norm_num_groups')!r} is not supported (only "
                         "norm_num_groups with resnet_time_scale_shift = 'scale_shift', null without)")
    if cross:
        return {**found, "heads": whole.get("num_attention_heads") or heads}
    return {**found, "heads": 1} if heads is None else {**found, "head_dim": heads}


def _blocks(cross: bool, c: Config, kind: Kind) -> dict[str, Any]:
    if cross and c.resize == "residual":
        raise ValueError("it has no residual blocks that resize")
    ways = [SEEING[cross] if attends else WHOLE if c.resize == "residual" else PLAIN for attends in c.attention]
    heads = c.heads if cross else c.head_dim or None
    if (cross and c.head_dim) or (not cross and not c.head_dim and c.heads > 1 and len(set(c.channels)) > 1):
        raise ValueError("diffusers counts heads in a U-Net with a condition, and their width in one without")
    if not cross and not c.head_dim and c.heads > 1:
        heads = c.channels[0] // c.heads
    return {"down_block_types": [down for down, _ in ways], "up_block_types": [up for _, up in reversed(ways)],
            "block_out_channels": list(c.channels), "attention_head_dim": heads,
            "resnet_time_scale_shift": "scale_shift" if c.scaled else "default",
            **({} if cross else {**dict.fromkeys(("downsample_type", "upsample_type"),
                                                 "resnet" if c.resize == "residual" else "conv"),
                                 "attn_norm_num_groups": c.groups if c.scaled else None})}


def _meaning(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A vector beside the time is projected by one linear layer, or there is none."""
    kind = whole.get("class_embed_type")
    if kind not in (None, "simple_projection"):
        raise ValueError(f"class_embed_type = {kind!r} is not supported (only simple_projection)")
    return {"embedding": whole["projection_class_embeddings_input_dim"] if kind else 0}


MEANING = Group(("class_embed_type", "projection_class_embeddings_input_dim"), lambda whole, kind: _meaning(whole),
                lambda c, kind: {"class_embed_type": "simple_projection",
                                 "projection_class_embeddings_input_dim": c.embedding} if c.embedding else {})


def _map(cross: bool, kind: Kind, *rows: tuple[Any, ...], **fixed: Any) -> FieldMap:
    shared = (("inputs", "in_channels", 4 if cross else 3), ("outputs", "out_channels", 4 if cross else 3),
              ("blocks", "layers_per_block", 2), ("groups", "norm_num_groups", 32), ("eps", "norm_eps", 1e-5),
              ("dropout", "dropout", 0.0), ("flip", "flip_sin_to_cos", True), ("shift", "freq_shift", 0),
              ("classes", "num_class_embeds", None), ("image", "sample_size", 64))
    group = Group(("down_block_types", "up_block_types", "block_out_channels", "attention_head_dim",
                   "num_attention_heads", "addition_embed_type_num_heads", "resnet_time_scale_shift",
                   *(() if cross else ("downsample_type", "upsample_type", "attn_norm_num_groups"))),
                  functools.partial(_levels, cross), functools.partial(_blocks, cross))
    pad = Group(("downsample_padding",), lambda whole, kind: {"pad": bool(whole.get("downsample_padding", 1))},
                lambda c, kind: {"downsample_padding": int(c.pad)})
    return FieldMap(kind, rows=(*shared, *rows), groups=(group, pad, class_names(), MEANING), fixed={
        "act_fn": "silu", "center_input_sample": False,
        "mid_block_scale_factor": 1, "time_embedding_type": "positional", **fixed})


HF_CONFIG = FieldMaps(
    _map(True, Kind("UNet2DConditionModel", "", when=lambda c: c.cross > 0), ("cross", "cross_attention_dim", 1280),
         ("depth", "transformer_layers_per_block", 1), ("linear", "use_linear_projection", False),
         mid_block_type="UNetMidBlock2DCrossAttn", conv_in_kernel=3, conv_out_kernel=3, attention_type="default",
         resnet_out_scale_factor=1.0),
    _map(False, Kind("UNet2DModel", "", {"cross": 0, "depth": 1, "linear": False}), mid_block_type="UNetMidBlock2D",
         add_attention=True))
