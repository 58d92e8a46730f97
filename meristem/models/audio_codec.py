"""A neural audio codec: convolutions to a few vectors a second, each a sum of codewords, and back to sound.

Zeghidour et al. 2021 (SoundStream), https://arxiv.org/abs/2107.03312, section III; Defossez et al. 2022 (EnCodec),
https://arxiv.org/abs/2210.13438, section 3: strided convolutions that look back only, residual units of growing
dilation, residual vector quantisation: every level names what the levels before it left over. Codewords are moving
averages of what chose them; one that nothing chooses for long is put onto the vector that was named worst (section
III-C puts it onto a random one).

    model = Model(Config(rate=8000))
    codes = model.tokens(sound)                                # int64 [B, frames, levels]
    model.sound(codes)                                         # float32 [B, N]
"""
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.sound import Conv, Grow, Stem

DILATIONS = (1, 3, 9)
SMOOTH, IDLE = 0.98, 0.05               # of the averages; below this many uses a step a codeword is placed anew


@dataclass(frozen=True)
class Config:
    """The shape of the codec; `samples` is the length of its sounds in training, a multiple of all strides."""

    rate: int = 24_000
    samples: int = 24_000
    channels: int = 32                  # of the first convolution; doubled by every stride
    strides: tuple[int, ...] = (2, 4, 5, 8)
    latent: int = 128
    levels: int = 8
    codes: int = 1024

    def __post_init__(self) -> None:
        if self.samples % self.hop:
            raise ValueError(f"samples ({self.samples}) must be a multiple of the strides' product ({self.hop})")

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        found = 1
        for stride in self.strides:
            found *= stride
        return found

    @property
    def frames(self) -> int:
        """Frames of a sound."""
        return self.samples // self.hop


def back(conv: Conv, x: Float[Tensor, "B I N"]) -> Float[Tensor, "B O M"]:
    """A convolution that sees only what came before: all its padding stands in front."""
    return conv(F.pad(x, ((conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0], 0)))


class Unit(nn.Module):
    """x + conv(elu(dilated conv(elu x)))."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width, 3, dilation=dilation), Conv(width, width, 1)

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
        """[B, C, N] -> the same."""
        return x + self.conv2(F.elu(back(self.conv1, F.elu(x))))


class Quantiser(nn.Module):
    """Residual vector quantisation with codewords [levels, codes, latent] that follow what chooses them."""

    def __init__(self, c: Config):
        super().__init__()
        words = torch.randn(c.levels, c.codes, c.latent) * 0.3
        self.register_buffer("words", words)
        self.register_buffer("uses", torch.ones(c.levels, c.codes))
        self.register_buffer("sums", words.clone())

    def forward(self, x: Float[Tensor, "*B E"], learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of the chosen codewords, the ids [..., levels], and the summed squared distance of each vector."""
        left, ids = x.float(), []
        whole, away = torch.zeros_like(left), torch.zeros(left.shape[:-1], device=x.device)
        for level, words in enumerate(self.words):             # type: ignore[arg-type]
            near = -torch.cdist(left.flatten(0, -2).detach(), words).view(*left.shape[:-1], -1)
            chosen = near.argmax(-1)
            word = F.embedding(chosen, words)
            away = away + (left - word).square().mean(-1)
            if learn:
                self.follow(level, left.detach().flatten(0, -2), chosen.flatten())
            whole, left = whole + word, left - word
            ids.append(chosen)
        return (x + (whole - x).detach()).to(x.dtype), torch.stack(ids, -1), away

    @torch.no_grad()
    def follow(self, level: int, x: Float[Tensor, "N E"], chosen: Int[Tensor, "N"]) -> None:
        """Move the averages of one level; codewords out of use go where a vector of this batch is."""
        uses, sums, words = self.uses[level], self.sums[level], self.words[level]      # type: ignore[index]
        picked = F.one_hot(chosen, len(words)).float()
        uses.mul_(SMOOTH).add_(picked.sum(0), alpha=1 - SMOOTH)
        sums.mul_(SMOOTH).add_(picked.T @ x, alpha=1 - SMOOTH)
        idle = (uses < IDLE).nonzero()[:, 0]
        worst = (x - words[chosen]).square().sum(-1).argsort(descending=True, stable=True)
        uses[idle], sums[idle] = 1.0, x[worst[torch.arange(len(idle), device=x.device) % len(x)]]
        words.copy_(sums / uses[:, None])

    def read(self, ids: Int[Tensor, "*B L"]) -> Float[Tensor, "*B E"]:
        """The sum of codewords; fewer levels than there are give a coarser sound."""
        return torch.stack([F.embedding(ids[..., n], self.words[n]) for n in range(ids.shape[-1])]).sum(0)  # type: ignore


class Model(nn.Module):
    """Sound -> sound, by way of a few codewords a frame."""

    def __init__(self, c: Config):
        super().__init__()
        self.config, width = c, c.channels
        self.enter, down, up = Stem(1, width, 7), nn.ModuleList(), nn.ModuleList()
        for stride in c.strides:
            down.extend([*(Unit(width, d) for d in DILATIONS), Conv(width, 2 * width, 2 * stride, stride)])
            width *= 2
        self.down, self.deep = down, Conv(width, c.latent, 3)
        self.quantiser = Quantiser(c)
        self.rise = Conv(c.latent, width, 7)
        for stride in reversed(c.strides):
            up.extend([Grow(width, width // 2, 2 * stride, stride), *(Unit(width // 2, d) for d in DILATIONS)])
            width //= 2
        self.up, self.leave = up, Conv(width, 1, 7)

    def encode(self, sound: Float[Tensor, "B N"]) -> Float[Tensor, "B T E"]:
        """A vector a frame, before quantisation."""
        x = back(self.enter, sound[:, None])
        for layer in self.down:
            x = back(layer, F.elu(x)) if isinstance(layer, Conv) else layer(x)
        return back(self.deep, F.elu(x)).mT

    def decode(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B N"]:
        """Vectors to samples."""
        x = back(self.rise, x.to(self.rise.weight.dtype).mT)
        for layer in self.up:
            x = layer(F.elu(x)) if isinstance(layer, Grow) else layer(x)
        return back(self.leave, F.elu(x))[:, 0]

    def tokens(self, sound: Float[Tensor, "B N"]) -> Int[Tensor, "B T L"]:
        """The codewords of a sound."""
        return self.quantiser(self.encode(sound))[1]

    def sound(self, ids: Int[Tensor, "B T L"]) -> Float[Tensor, "B N"]:
        """The sound of codewords."""
        return self.decode(self.quantiser.read(ids))

    def forward(self, source: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor, Tensor]:
        """The sound again [B, N], the ids [B, T, levels], and how far each vector lay from its codewords [B, T]."""
        x, ids, away = self.quantiser(self.encode(source), learn=self.training)
        return self.decode(x), ids, away


SIZES = {
    "soundstream-like": Config(),                              # its strides and levels at 24 kHz (section III-A)
}

_UNIT = ("conv1", "conv2")
HF = NameMap(*((f"{{part}}.{{n}}.{conv}.{{x}}", f"{{part}}.{{n}}.{conv}.{{x}}") for conv in _UNIT),
             ("{part}.{n}.{x}", "{part}.{n}.{x}"), ("{part}.{x}", "{part}.{x}"))


HF_CONFIG = FieldMap(
    Kind("AudioCodecModel", "meristem_audio_codec"),           # ours alone
    rows=(("rate", "sampling_rate"), ("samples", "training_samples"), ("channels", "num_channels"),
          ("strides", "strides"), ("latent", "hidden_size"), ("levels", "num_quantizers"),
          ("codes", "codebook_size")),
    fixed={})
