"""A diffusion transformer of films over patches of space and time, told a text and, if given, the first frame.

Brooks et al. 2024, "Video generation models as world simulators" (Sora: patches of latents of space and time as tokens
of a diffusion transformer); Peebles & Xie 2022, https://arxiv.org/abs/2212.09748 (adaLN-Zero blocks); Chen et al. 2023,
https://arxiv.org/abs/2310.00426 (PixArt-alpha, section 2.3: cross-attention to the text in each block, one modulation
for all blocks and a table a block). Every token sees every other, of all frames. Frames that are `known` come clean:
the network is told so by a vector of its own. In Python:

    model = Model(Config(inputs=4, image=4, frames=5, patch=1, dim=128, layers=4, heads=4, cross=64))
    model(latents, time, condition=vectors)                    # [B, 5, 4, 4, 4] -> the same shape
"""
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, CrossAttention, Reach
from meristem.nn.linear import Linear
from meristem.nn.mlp import MLP
from meristem.nn.timestep import TimeEmbedding
from meristem.nn.video import FilmPatches, places

SINES = 256                             # numbers that the time is told in


@dataclass(frozen=True)
class Config:
    """The transformer's shape; `image` and `frames` are those of what it denoises: a latent, or pixels."""

    inputs: int = 4
    outputs: int = 0                    # 0: as many as inputs
    image: int = 32
    frames: int = 5
    patch: int = 2
    dim: int = 1152
    layers: int = 28
    heads: int = 16
    cross: int = 0                      # width of the text's vectors; 0: told nothing

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or self.inputs)
        if self.image % self.patch:
            raise ValueError(f"image ({self.image}) must be a multiple of patch ({self.patch})")
        if self.dim % self.heads or self.dim % 8:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}) and of 8")


class Block(nn.Module):
    """Self-attention, attention to the text, an mlp; the first and the last scaled, shifted and gated by the time."""

    def __init__(self, c: Config):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, c.dim))
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.look = CrossAttention(c.dim, c.heads, source=c.cross, bias=True) if c.cross else None
        self.mlp = MLP(c.dim, 4 * c.dim, "gelu_pytorch_tanh")

    def forward(self, x: Float[Tensor, "B N D"], given: Float[Tensor, "B 6 D"],
                condition: Float[Tensor, "B S E"] | None = None) -> Float[Tensor, "B N D"]:
        """[B, N, D] -> the same."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (given + self.table.to(x.dtype))[:, :, None].unbind(1)
        x = x + gate1 * self.attn(norm(x) * (1 + scale1) + shift1)
        if self.look is not None and condition is not None:
            x = x + self.look(x, self.look.keys(condition.to(x.dtype)))
        return x + gate2 * self.mlp(norm(x) * (1 + scale2) + shift2)


class Model(nn.Module):
    """Noisy films and the time -> what the objective has it predict."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.patches = FilmPatches(c.inputs, c.dim, c.patch)
        self.time, self.modulation = TimeEmbedding(SINES, c.dim, shift=1), Linear(c.dim, 6 * c.dim)
        self.known = nn.Parameter(torch.zeros(c.dim))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.table, self.out = nn.Parameter(torch.zeros(2, c.dim)), Linear(c.dim, c.patch**2 * c.outputs)
        self.initialise()

    def initialise(self) -> None:
        """Xavier-uniform matrices; the modulation, the way out of the text's attention and the output zero."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight.view(self.config.dim, -1))
        looks = [block.look.o for block in self.blocks if isinstance(block, Block) and block.look is not None]
        for linear in (self.modulation, self.out, *looks):
            nn.init.zeros_(linear.weight)

    def forward(self, images: Float[Tensor, "B F I H W"], time: Float[Tensor, "B"],
                condition: Float[Tensor, "B S E"] | None = None,
                known: Bool[Tensor, "B F"] | None = None) -> Float[Tensor, "B F O H W"]:
        """[B, F, inputs, H, W], steps [B], vectors of a text and which frames are clean -> [B, F, outputs, H, W]."""
        c, frames = self.config, images.shape[1]
        rows, columns = (side // c.patch for side in images.shape[3:])
        x = self.patches(images)
        x = x + places(frames, rows, columns, c.dim, x.device).to(x.dtype)
        if known is not None:
            x = x + (known[..., None] * self.known).to(x.dtype).repeat_interleave(rows * columns, 1)
        told = self.time(time, x.dtype)
        given = self.modulation(F.silu(told)).unflatten(1, (6, -1))
        for block in self.blocks:
            x = block(x, given, condition)
        shift, scale = (told[:, None] + self.table.to(x.dtype))[:, :, None].unbind(1)
        x = self.out(norm(x) * (1 + scale) + shift)
        x = x.unflatten(2, (c.patch, c.patch, c.outputs)).unflatten(1, (frames, rows, columns))
        return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)       # from [B, F, h, w, p, q, O]


def norm(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """Layer normalisation without weights: the time gives them."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


SIZES = {"film-xl2": Config(cross=4096)}                        # PixArt-alpha's shape over films; Sora's are not public

LAYERS = ("attn.q", "attn.k", "attn.v", "attn.o", "look.q", "look.k", "look.v", "look.o", "mlp.up", "mlp.down")
HF = NameMap(*((name, name) for name in (
    "patches.{x}", "time.first.{x}", "time.second.{x}", "modulation.{x}", "known", "table", "out.{x}",
    "blocks.{i}.table", *(f"blocks.{{i}}.{layer}.{{x}}" for layer in LAYERS))))
HF_CONFIG = FieldMap(                                          # ours alone
    Kind("VideoDiffusionTransformer", "meristem_video_dit"),
    rows=(("inputs", "in_channels"), ("outputs", "out_channels"), ("image", "sample_size"), ("frames", "num_frames"),
          ("patch", "patch_size"), ("dim", "hidden_size"), ("layers", "num_layers"), ("heads", "num_attention_heads"),
          ("cross", "cross_attention_dim")), fixed={})
