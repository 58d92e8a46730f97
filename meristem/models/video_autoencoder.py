"""A causal 3-D autoencoder of films: the first frame is a picture by itself, later ones see only those before.

Yu et al. 2023, https://arxiv.org/abs/2310.05737 (MAGVIT-2, section 3.2); Kingma & Welling 2013,
https://arxiv.org/abs/1312.6114 (the KL to Normal(0, 1)); Brooks et al. 2024, "Video generation models as world
simulators" (Sora: films are denoised in such latents). 1 + n frames of H x W become 1 + n / `shorter` of H / `shrink`.
In Python:

    model = Model(Config(channels=(16, 32), halve=(True, False), image=16, frames=17))
    model.decode(model.encode(films))                          # [B, 17, 3, 16, 16] -> [B, 9, 4, 8, 8] -> back
"""
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.video import CausalConv, FrameNorm


@dataclass(frozen=True)
class Config:
    """The shape of both halves: each of `channels` is a level of half the size of the one before."""

    inputs: int = 3
    channels: tuple[int, ...] = (64, 128, 128)
    halve: tuple[bool, ...] = (True, True)         # between levels: whether time is halved, too
    latent: int = 4
    groups: int = 8
    image: int = 64
    frames: int = 17                    # 1 + a multiple of `shorter`
    kind: Literal["kl"] = "kl"
    scale: float = 1.0                  # latents less `shift` times this have unit variance: what diffusion sees
    shift: float = 0.0

    def __post_init__(self) -> None:
        if len(self.halve) != len(self.channels) - 1:
            raise ValueError(f"halve has one entry between two levels, {len(self.channels) - 1}, not {len(self.halve)}")
        if (self.frames - 1) % self.shorter or self.image % self.shrink:
            raise ValueError(f"frames ({self.frames}) must be 1 and a multiple of {self.shorter}, image ({self.image}) "
                             f"a multiple of {self.shrink}")
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of groups ({self.groups})")

    @property
    def shrink(self) -> int:
        """Pixels a side that one place of the latent stands for."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def shorter(self) -> int:
        """Frames, after the first, that one frame of the latent stands for."""
        return int(2 ** sum(self.halve))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a latent: frames, channels, height, width."""
        side = self.image // self.shrink
        return 1 + (self.frames - 1) // self.shorter, self.latent, side, side


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x)))))."""

    def __init__(self, inputs: int, outputs: int, c: Config):
        super().__init__()
        self.norm1, self.norm2 = FrameNorm(c.groups, inputs, 1e-6), FrameNorm(c.groups, outputs, 1e-6)
        self.conv1, self.conv2 = CausalConv(inputs, outputs), CausalConv(outputs, outputs)
        self.shortcut = CausalConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "B F I H W"]) -> Float[Tensor, "B F O H W"]:
        """[B, F, in, H, W] -> [B, F, out, H, W]."""
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Grow(nn.Module):
    """Every place four times, and where time doubles every frame but the first twice; then a convolution."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.conv, self.time = CausalConv(channels, channels), time

    def forward(self, x: Float[Tensor, "B F C H W"]) -> Float[Tensor, "B f C h w"]:
        """[B, F, C, H, W] -> [B, 2F - 1 or F, C, 2H, 2W]."""
        if self.time:
            x = torch.cat([x[:, :1], x[:, 1:].repeat_interleave(2, 1)], 1)
        return self.conv(x.repeat_interleave(2, 3).repeat_interleave(2, 4))


class Model(nn.Module):
    """Films to latents and back; `forward` gives what a reconstruction objective scores."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        widths, back = c.channels, c.channels[::-1]
        down, up = nn.ModuleList([CausalConv(c.inputs, widths[0])]), nn.ModuleList([CausalConv(c.latent, back[0])])
        for i, width in enumerate(widths):
            down.append(Residual(widths[max(0, i - 1)], width, c))
            if i < len(c.halve):
                down.append(CausalConv(width, width, 3, 2 if c.halve[i] else 1, 2))
        for i, width in enumerate(back):
            up.append(Residual(back[max(0, i - 1)], width, c))
            if i < len(c.halve):
                up.append(Grow(width, c.halve[::-1][i]))
        self.down, self.up = down, up
        self.norm_down, self.norm_up = FrameNorm(c.groups, widths[-1], 1e-6), FrameNorm(c.groups, back[-1], 1e-6)
        self.out_down, self.out_up = CausalConv(widths[-1], 2 * c.latent), CausalConv(back[-1], c.inputs)

    def statistics(self, images: Float[Tensor, "B F I H W"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent [B, f, L, h, w]; the variance is kept between e^-30 and e^20."""
        x = images
        for layer in self.down:
            x = layer(x)
        mean, spread = self.out_down(F.silu(self.norm_down(x))).chunk(2, 2)
        return mean, spread.clamp(-30.0, 20.0)

    def encode(self, images: Float[Tensor, "B F I H W"]) -> Float[Tensor, "B f L h w"]:
        """The latent of highest density, scaled to about unit variance."""
        return (self.statistics(images)[0] - self.config.shift) * self.config.scale

    def decode(self, latent: Float[Tensor, "B f L h w"]) -> Float[Tensor, "B F I H W"]:
        """Films of scaled latents, about -1 to 1."""
        return self.paint(latent / self.config.scale + self.config.shift)

    def paint(self, latent: Float[Tensor, "B f L h w"]) -> Float[Tensor, "B F I H W"]:
        """Films of latents as `statistics` gives them."""
        x = latent
        for layer in self.up:
            x = layer(x)
        return self.out_up(F.silu(self.norm_up(x)))

    def forward(self, images: Float[Tensor, "B F I H W"],
                noise: Float[Tensor, "B f L h w"] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(films again, mean, log-variance); `noise` draws the latent."""
        mean, spread = self.statistics(images)
        z = mean if noise is None else mean + torch.exp(0.5 * spread) * noise.to(mean.dtype)
        return self.paint(z), mean, spread


SIZES = {"film-f4t4": Config()}         # ours: no published model has these shapes

PARTS = ("norm1.{x}", "norm2.{x}", "conv1.{x}", "conv2.{x}", "shortcut.{x}", "conv.{x}", "{x}")
HF = NameMap(*((f"{half}.{{i}}.{part}",) * 2 for half in ("down", "up") for part in PARTS),
             *((f"{part}.{{x}}",) * 2 for part in ("norm_down", "norm_up", "out_down", "out_up")))
HF_CONFIG = FieldMap(                                          # ours alone
    Kind("CausalVideoAutoencoder", "meristem_video_autoencoder"),
    rows=(("inputs", "in_channels"), ("channels", "block_out_channels"), ("halve", "temporal_downsample"),
          ("latent", "latent_channels"), ("groups", "norm_num_groups"), ("image", "sample_size"),
          ("frames", "num_frames"), ("scale", "scaling_factor"), ("shift", "shift_factor")), fixed={})
