"""Autoencoders of images: the KL-regularised one of Stable Diffusion, and two whose latents are numbers of a codebook.

Rombach et al. 2021, https://arxiv.org/abs/2112.10752 (section 3.1, appendix G); Kingma & Welling 2013,
https://arxiv.org/abs/1312.6114; van den Oord et al. 2017, https://arxiv.org/abs/1711.00937 (VQ, section 3.2); Ramesh et
al. 2021, https://arxiv.org/abs/2102.12092 (dVAE, section 2.1). `Config.kind` is which: "kl" gives a mean and a
log-variance a pixel of the latent; "vq" the nearest of `codes` vectors; "dvae" a logit for each of them, in training a
relaxed draw (Gumbel softmax: Jang et al. 2016, https://arxiv.org/abs/1611.01144). The numbers are the image tokens of a
decoder over text and images (models/dalle.py). DALL-E's own network has other blocks. diffusers' layout. In Python:

    model = Model(Config(channels=(32, 64), blocks=1, groups=8, latent=4))
    model.decode(model.encode(images))                         # [B, 3, 32, 32] -> [B, 4, 16, 16] -> [B, 3, 32, 32]
"""
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, FieldMaps, Group, Kind, NameMap, NameMaps
from meristem.nn.conv import Conv, Down, GroupNorm, PixelAttention, Residual, Stem, Up


@dataclass(frozen=True)
class Config:
    """The shape of both halves: each of `channels` is a level of half the size of the one before."""

    kind: Literal["kl", "vq", "dvae"] = "kl"
    inputs: int = 3
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2                     # residual blocks a level (one more in the decoder)
    latent: int = 4
    groups: int = 32
    attention: bool = True              # in the middle of both halves
    image: int = 512                    # the side that it was trained with; any multiple of `shrink` works
    scale: float = 0.18215              # latents times this have about unit variance: what a diffusion model sees
    shift: float = 0.0                  # subtracted before
    codes: int = 8192                   # vq, dvae: vectors in the codebook

    def __post_init__(self) -> None:
        if wrong := [c for c in self.channels if c % self.groups]:
            raise ValueError(f"channels ({wrong[0]}) must be multiples of groups ({self.groups})")

    @property
    def shrink(self) -> int:
        """How many pixels a side one of the latent stands for."""
        return 2 ** (len(self.channels) - 1)


class Middle(nn.Module):
    """Residual, attention, residual at the smallest size."""

    def __init__(self, channels: int, c: Config):
        super().__init__()
        self.first, self.second = (Residual(channels, channels, groups=c.groups, eps=1e-6) for _ in range(2))
        self.attn = PixelAttention(channels, groups=c.groups, eps=1e-6) if c.attention else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> the same."""
        return self.second(self.attn(self.first(x)))


class Level(nn.Module):
    """Residual blocks of one size, then the way to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int, c: Config, resize: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(inputs if i == 0 else outputs, outputs, groups=c.groups, eps=1e-6)
                                    for i in range(blocks))
        self.resize = resize

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, out, h, w]."""
        for block in self.blocks:
            x = block(x)
        return x if self.resize is None else self.resize(x)


class Encoder(nn.Module):
    """Image -> statistics of the latent."""

    def __init__(self, c: Config):
        super().__init__()
        widths, last = c.channels, len(c.channels) - 1
        self.stem = Stem(c.inputs, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(0, i - 1)], w, c.blocks, c, Down(w, pad=False) if i < last else None)
            for i, w in enumerate(widths))
        self.middle = Middle(widths[-1], c)
        self.norm = GroupNorm(c.groups, widths[-1], 1e-6)
        self.out = Conv(widths[-1], c.latent * (2 if c.kind == "kl" else 1), 3, padding=1)

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, 2 latent or latent, H/s, W/s]."""
        x = self.stem(x)
        for level in self.levels:
            x = level(x)
        return self.out(self.norm(self.middle(x), True))


class Decoder(nn.Module):
    """Latent -> image."""

    def __init__(self, c: Config):
        super().__init__()
        widths, last = c.channels[::-1], len(c.channels) - 1
        self.stem = Stem(c.latent, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], c)
        self.levels = nn.ModuleList(Level(widths[max(0, i - 1)], w, c.blocks + 1, c, Up(w) if i < last else None)
                                    for i, w in enumerate(widths))
        self.norm = GroupNorm(c.groups, widths[-1], 1e-6)
        self.out = Conv(widths[-1], c.inputs, 3, padding=1)

    def forward(self, z: Float[Tensor, "B L h w"]) -> Float[Tensor, "B I H W"]:
        """[B, latent, h, w] -> [B, in, H, W]."""
        x = self.middle(self.stem(z))
        for level in self.levels:
            x = level(x)
        return self.out(self.norm(x, True))


class Codebook(nn.Module):
    """The nearest of some vectors, with a gradient that passes straight through (VQ-VAE section 3.2)."""

    def __init__(self, codes: int, dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def numbers(self, z: Float[Tensor, "B L h w"]) -> Int[Tensor, "B h w"]:
        """The number of the nearest vector at every place, by distances in fp32."""
        flat = z.float().permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cdist(flat, self.vectors.float()).argmin(1).unflatten(0, (z.shape[0], *z.shape[2:]))

    def look_up(self, numbers: Int[Tensor, "B h w"]) -> Float[Tensor, "B L h w"]:
        """The vectors of some numbers, as an image."""
        return self.vectors[numbers].permute(0, 3, 1, 2)


class Model(nn.Module):
    """Images to latents and back; `forward` gives what a reconstruction objective scores."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        both = 2 if c.kind == "kl" else 1
        self.before = Conv(both * c.latent, c.codes if c.kind == "dvae" else both * c.latent, 1)
        self.after = Conv(c.latent, c.latent, 1)
        self.codebook = Codebook(c.codes, c.latent) if c.kind != "kl" else None
        if self.codebook is not None and c.kind == "dvae":     # a mean of many small vectors would be no signal at all
            nn.init.normal_(self.codebook.vectors)

    def statistics(self, images: Float[Tensor, "B I H W"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent [B, L, h, w] (kl); the variance is kept between e^-30 and e^20."""
        mean, spread = self.before(self.encoder(images)).chunk(2, 1)
        return mean, spread.clamp(-30.0, 20.0)

    def encode(self, images: Float[Tensor, "B I H W"]) -> Float[Tensor, "B L h w"]:
        """The latent of highest density, scaled to about unit variance; of a vq model the nearest vectors."""
        if self.codebook is None:
            return (self.statistics(images)[0] - self.config.shift) * self.config.scale
        return self.codebook.look_up(self.tokens(images)) * self.config.scale

    def tokens(self, images: Float[Tensor, "B I H W"]) -> Int[Tensor, "B h w"]:
        """The numbers of the nearest vectors (vq) or of the largest logits (dvae)."""
        assert self.codebook is not None, "a kl autoencoder has no codebook: take kind=vq"
        given = self.before(self.encoder(images))
        return given.argmax(1) if self.config.kind == "dvae" else self.codebook.numbers(given)

    def decode(self, latent: Float[Tensor, "B L h w"]) -> Float[Tensor, "B I H W"]:
        """Images of scaled latents, about -1 to 1."""
        return self.decoder(self.after(latent / self.config.scale + self.config.shift))

    def picture(self, numbers: Int[Tensor, "B h w"]) -> Float[Tensor, "B I H W"]:
        """Images of codebook numbers (vq, dvae)."""
        assert self.codebook is not None, "a kl autoencoder has no codebook: take kind=vq"
        return self.decoder(self.after(self.codebook.look_up(numbers)))

    def forward(self, images: Float[Tensor, "B I H W"], noise: Float[Tensor, "B L h w"] | None = None,
                temperature: Float[Tensor, ""] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(images again, a, b).

        a and b are mean and log-variance (kl; `noise` draws the latent), the encoder's vectors and the nearest (vq), or
        log-probabilities [B, codes, h, w] and the mixed vectors (dvae; with Gumbel `noise` of that shape a draw at the
        `temperature`, else the likeliest).
        """
        if self.codebook is None:
            mean, spread = self.statistics(images)
            z = mean if noise is None else mean + torch.exp(0.5 * spread) * noise.to(mean.dtype)
            return self.decoder(self.after(z)), mean, spread
        given = self.before(self.encoder(images))
        if self.config.kind == "dvae":
            log = given.float().log_softmax(1)
            if noise is None:
                mixed = self.codebook.look_up(log.argmax(1))
            else:
                assert temperature is not None
                share = ((log + noise) / temperature).softmax(1)
                mixed = torch.einsum("bchw,cl->blhw", share, self.codebook.vectors)
            mixed = mixed.to(given.dtype)
            return self.decoder(self.after(mixed)), log, mixed
        nearest = self.codebook.look_up(self.codebook.numbers(given)).to(given.dtype)
        through = given + (nearest - given).detach()
        return self.decoder(self.after(through)), given, nearest


SIZES = {
    "kl-f8": Config(),                                                  # Stable Diffusion 1.x
    "vq-f4": Config(kind="vq", channels=(128, 256, 512), latent=3, image=256, scale=1.0, codes=8192),
    "dvae-f8": Config(kind="dvae", channels=(128, 256, 512, 512), latent=128, image=256, scale=1.0),   # DALL-E's grid
}

RESIDUAL = (("norm1", "norm1"), ("norm2", "norm2"), ("conv1", "conv1"), ("conv2", "conv2"),
            ("shortcut", "conv_shortcut"))
HALVES = tuple(
    row for half, way, step in (("encoder", "down", "down"), ("decoder", "up", "up")) for row in (
        (f"{half}.stem.{{x}}", f"{half}.conv_in.{{x}}"), (f"{half}.norm.{{x}}", f"{half}.conv_norm_out.{{x}}"),
        (f"{half}.out.{{x}}", f"{half}.conv_out.{{x}}"),
        *((f"{half}.levels.{{i}}.blocks.{{j}}.{a}.{{x}}", f"{half}.{way}_blocks.{{i}}.resnets.{{j}}.{b}.{{x}}")
          for a, b in RESIDUAL),
        (f"{half}.levels.{{i}}.resize.conv.{{x}}", f"{half}.{way}_blocks.{{i}}.{step}samplers.0.conv.{{x}}"),
        *((f"{half}.middle.{ours}.{a}.{{x}}", f"{half}.mid_block.resnets.{n}.{b}.{{x}}")
          for n, ours in enumerate(("first", "second")) for a, b in RESIDUAL),
        (f"{half}.middle.attn.norm.{{x}}", f"{half}.mid_block.attentions.0.group_norm.{{x}}"),
        *((f"{half}.middle.attn.attn.{a}.{{x}}", f"{half}.mid_block.attentions.0.{b}.{{x}}")
          for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")))))
ROWS = (*HALVES, ("before.{x}", "quant_conv.{x}"), ("after.{x}", "post_quant_conv.{x}"),
        ("codebook.vectors", "quantize.embedding.weight"))
OLD = tuple((f"attentions.0.{was}.{x}", f"attentions.0.{now}.{x}") for was, now in
            (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
            for x in ("weight", "bias"))                                # names before diffusers 0.15

HF = NameMaps(functools.cache(lambda c: NameMap(*ROWS, old=OLD)))

FIXED = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "latents_mean": None,
         "latents_std": None}


def _levels(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The names of the blocks, one a level, and the channels, equal in and out."""
    for key, name in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(whole.get(key) or [name]) != {name}:
            raise ValueError(f"{key} = {whole[key]!r} is not supported (only {name})")
    if whole.get("out_channels", whole.get("in_channels", 3)) != whole.get("in_channels", 3):
        raise ValueError("in_channels and out_channels differ")
    return {"channels": tuple(whole["block_out_channels"])}


def _blocks(config: Config, kind: Kind) -> dict[str, Any]:
    count = len(config.channels)
    return {"block_out_channels": list(config.channels), "out_channels": config.inputs,
            "down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}


SHARED = (("inputs", "in_channels", 3), ("blocks", "layers_per_block", 1), ("latent", "latent_channels", 4),
          ("groups", "norm_num_groups", 32), ("image", "sample_size", 32), ("scale", "scaling_factor", 0.18215),
          ("attention", "mid_block_add_attention", True))
LEVELS = Group(("block_out_channels", "down_block_types", "up_block_types", "out_channels", "force_upcast"), _levels,
               _blocks)
HF_CONFIG = FieldMaps(
    FieldMap(Kind("AutoencoderKL", "", {"kind": "kl"}), rows=(*SHARED, ("shift", "shift_factor", 0.0)), fixed=FIXED,
             groups=(LEVELS,)),
    FieldMap(Kind("VQModel", "", {"kind": "vq", "shift": 0.0}), rows=(*SHARED, ("codes", "num_vq_embeddings", 256)),
             fixed={**FIXED, "norm_type": "group", "lookup_from_codebook": False, "force_upcast": False},
             groups=(LEVELS, Group(("vq_embed_dim",), lambda whole, kind: _width(whole), lambda c, k: {}))),
    FieldMap(Kind("DiscreteVAE", "meristem_dvae", {"kind": "dvae", "shift": 0.0}),           # ours alone
             rows=(*SHARED, ("codes", "num_vq_embeddings")), fixed=FIXED, groups=(LEVELS,)))


def _width(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A codebook as wide as the latent."""
    if whole.get("vq_embed_dim") not in (None, whole.get("latent_channels", 3)):
        raise ValueError(f"vq_embed_dim = {whole['vq_embed_dim']} is not supported (only latent_channels)")
    return {}
