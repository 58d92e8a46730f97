"""The diffusion prior of unCLIP: from a caption to the vector that CLIP would give its picture.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125 (section 2.2): a causal transformer over the caption's places, the
caption's vector, the time, the noisy vector of a picture, and one learned place whose output is the clean vector. The
network works on (vector - mean) / std. Read and written in diffusers' layout (`PriorTransformer`). In Python:

    model = Model(Config(width=64, text=16, dim=128, layers=4, heads=4))
    model(noisy, time, caption, condition, seen)               # [B, width]
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meristem.core.names import FieldMap, Group, Kind, NameMap
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Entrance, Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm
from meristem.nn.timestep import TimeEmbedding

BESIDE = 4                              # places after the caption's: its vector, the time, the noisy vector, the answer


@dataclass(frozen=True)
class Config:
    """The shape of a prior; `width` is that of CLIP's space and of the text tower's vectors."""

    width: int = 768
    text: int = 77                      # places of a caption
    dim: int = 2048
    layers: int = 20
    heads: int = 32

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(c.dim), LayerNorm(c.dim)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach())
        self.mlp = MLP(c.dim, 4 * c.dim, "gelu")

    def forward(self, x: Float[Tensor, "B T D"], segments: Tensor | None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), segments=segments)
        return x + self.mlp(self.norm2(x))


class Entry(Linear, Entrance):
    """Where vectors enter the network, in its `compute` type."""

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., in] -> [..., out] of type `compute`."""
        return super().forward(x.to(self.compute or x.dtype))


class Model(nn.Module):
    """A noisy vector, the time and a caption -> the clean vector."""

    mean: Tensor
    std: Tensor

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.time = TimeEmbedding(c.dim, c.dim)
        self.noisy, self.caption, self.words = (Entry(c.width, c.dim) for _ in range(3))
        self.place = nn.Parameter(0.02 * torch.randn(1, c.text + BESIDE, c.dim))
        self.answer = nn.Parameter(0.02 * torch.randn(1, 1, c.dim))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm, self.out = LayerNorm(c.dim), Linear(c.dim, c.width)
        # Vectors of length 1 have a variance of about 1 / width a number: what a folder says replaces this.
        self.register_buffer("mean", torch.zeros(1, c.width))
        self.register_buffer("std", torch.full((1, c.width), c.width**-0.5))

    def forward(self, embedding: Float[Tensor, "B E"], time: Float[Tensor, "B"], caption: Float[Tensor, "B E"],
                condition: Float[Tensor, "B S E"], seen: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B E"]:
        """Normalised noisy vectors, steps, the caption's vector and those of its places -> normalised clean vectors.

        Places of the caption that are not `seen` are padding.
        """
        x = self.noisy(embedding)[:, None]
        parts = [self.words(condition), self.caption(caption)[:, None], self.time(time, x.dtype)[:, None], x,
                 self.answer.to(x.dtype).expand(len(x), -1, -1)]
        x = torch.cat(parts, 1) + self.place.to(x.dtype)
        segments = None
        if seen is not None:
            segments = torch.cat([(~seen).long(), torch.zeros(len(x), BESIDE, dtype=torch.long, device=x.device)], 1)
        for block in self.blocks:
            x = block(x, segments)
        return self.out(self.norm(x[:, -1]))

    def normalised(self, vectors: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        """CLIP's vectors as the network sees them."""
        return (vectors - self.mean) / self.std

    def restored(self, vectors: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        """What the network says as vectors of CLIP."""
        return vectors * self.std + self.mean


SIZES = {
    "unclip": Config(),                                        # as diffusers' default, Karlo's: 1B, as section 2.2's
}

HF = NameMap(
    *((f"{a}.{x}", f"{b}.{x}") for a, b in (
        ("time.first", "time_embedding.linear_1"), ("time.second", "time_embedding.linear_2"), ("noisy", "proj_in"),
        ("caption", "embedding_proj"), ("words", "encoder_hidden_states_proj"), ("norm", "norm_out"),
        ("out", "proj_to_clip_embeddings"),
        *((f"blocks.{{i}}.{c}", f"transformer_blocks.{{i}}.{d}") for c, d in (
            ("norm1", "norm1"), ("norm2", "norm3"), ("attn.q", "attn1.to_q"), ("attn.k", "attn1.to_k"),
            ("attn.v", "attn1.to_v"), ("attn.o", "attn1.to_out.0"), ("mlp.up", "ff.net.0.proj"),
            ("mlp.down", "ff.net.2")))) for x in ("weight", "bias")),
    ("place", "positional_embedding"), ("answer", "prd_embedding"), ("mean", "clip_mean"), ("std", "clip_std"))


def _read(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The width is heads times their width; one width for all vectors."""
    heads, width = whole.get("num_attention_heads", 32), whole.get("embedding_dim", 768)
    for key in ("embedding_proj_dim", "clip_embed_dim"):
        if whole.get(key) not in (None, width):
            raise ValueError(f"{key} = {whole[key]} is not supported (only embedding_dim)")
    dim = heads * whole.get("attention_head_dim", 64)
    if whole.get("time_embed_dim") not in (None, dim):
        raise ValueError(f"time_embed_dim = {whole['time_embed_dim']} is not supported (only the width)")
    return {"heads": heads, "dim": dim, "width": width}


HF_CONFIG = FieldMap(
    Kind("PriorTransformer", ""),
    rows=(("text", "num_embeddings", 77), ("layers", "num_layers", 20)),
    fixed={"additional_embeddings": BESIDE, "time_embed_act_fn": "silu", "norm_in_type": None,
           "embedding_proj_norm_type": None, "encoder_hid_proj_type": "linear", "added_emb_type": "prd"},
    groups=(Group(("num_attention_heads", "attention_head_dim", "embedding_dim", "embedding_proj_dim", "clip_embed_dim",
                   "time_embed_dim"), lambda whole, kind: _read(whole),
                  lambda c, kind: {"num_attention_heads": c.heads, "attention_head_dim": c.dim // c.heads,
                                   "embedding_dim": c.width}),))
