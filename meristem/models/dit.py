"""DiT: a transformer as diffusion model, over patches of an image or of a latent.

Peebles & Xie 2022, https://arxiv.org/abs/2212.09748 (section 3.2, adaLN-Zero; table 1): every block's two norms are
scaled, shifted and gated by numbers made from the time and the class; all of them begin at zero. One embedding of time
and class serves all blocks; diffusers stores a copy a block, which is compared when read. In Python:

    model = Model(Config(image=32, patch=2, dim=384, layers=12, heads=6, classes=10))
    model(latents, time, labels=labels)                        # [B, 8, 32, 32]: noise and variance
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Group, Kind, NameMap, class_names
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP
from meristem.nn.patch import Patches
from meristem.nn.timestep import TimeEmbedding

SINES = 256                             # numbers that the time is told in


@dataclass(frozen=True)
class Config:
    """A DiT's shape; `classes` real ones, one more stands for "none" (classifier-free guidance)."""

    inputs: int = 4
    outputs: int = 0                    # 0: twice the inputs: what is predicted, and the variance
    image: int = 32
    patch: int = 2
    dim: int = 1152
    layers: int = 28
    heads: int = 16
    classes: int = 1000
    labels: tuple[str, ...] = ()        # their names, where they have some

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or 2 * self.inputs)
        if self.image % self.patch:
            raise ValueError(f"image ({self.image}) must be a multiple of patch ({self.patch})")
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}) and of 4")


class Condition(nn.Module):
    """The time and the class as one vector."""

    def __init__(self, c: Config):
        super().__init__()
        self.time, self.label = TimeEmbedding(SINES, c.dim, shift=1), Embedding(c.classes + 1, c.dim)

    def forward(self, time: Float[Tensor, "B"], labels: Int[Tensor, "B"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
        """[B], [B] -> [B, D] of type `dtype`."""
        return self.time(time, dtype) + self.label(labels).to(dtype)


class Block(nn.Module):
    """x + gate * attention(norm(x) * (1 + scale) + shift), then the same with an mlp."""

    def __init__(self, c: Config, condition: Condition):
        super().__init__()
        self.condition = condition                             # one for all: diffusers' name for it is a block's
        self.modulation = Linear(c.dim, 6 * c.dim)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.mlp = MLP(c.dim, 4 * c.dim, "gelu_pytorch_tanh")

    def forward(self, x: Float[Tensor, "B N D"], given: Float[Tensor, "B D"]) -> Float[Tensor, "B N D"]:
        """[B, N, D], silu of the condition [B, D] -> [B, N, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(given)[:, None].chunk(6, -1)
        x = x + gate1 * self.attn(norm(x, 1e-6) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(norm(x, 1e-5) * (1 + scale2) + shift2)


class Model(nn.Module):
    """Noisy images and the time -> what the objective has it predict."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.patches = Patches(c.inputs, c.dim, c.patch)
        condition = Condition(c)
        self.blocks = nn.ModuleList(Block(c, condition) for _ in range(c.layers))
        self.modulation, self.out = Linear(c.dim, 2 * c.dim), Linear(c.dim, c.patch**2 * c.outputs)
        self.none = c.classes                                  # the label that stands for none
        self.initialise()

    def initialise(self) -> None:
        """Xavier-uniform matrices; the embeddings Normal(0, 0.02); modulations and the output zero (section 3.2)."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.xavier_uniform_(self.patches.weight.view(self.config.dim, -1))
        ends = [self.modulation, self.out, *(m.modulation for m in self.modules() if isinstance(m, Block))]
        for linear in ends:
            nn.init.zeros_(linear.weight)

    def forward(self, images: Float[Tensor, "B I H W"], time: Float[Tensor, "B"],
                labels: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B O H W"]:
        """[B, inputs, H, W], steps [B] (may be fractional) -> [B, outputs, H, W]; no labels: "none" for every image."""
        c = self.config
        rows, columns = (side // c.patch for side in images.shape[2:])
        x = self.patches(images)
        x = x + grid(rows, columns, c.dim, c.image // c.patch, x.device).to(x.dtype)
        if labels is None:
            labels = torch.full((len(images),), self.none, device=images.device)
        first = self.blocks[0]
        assert isinstance(first, Block)
        given = F.silu(first.condition(time, labels, x.dtype))
        for block in self.blocks:
            x = block(x, given)
        shift, scale = self.modulation(given)[:, None].chunk(2, -1)
        x = self.out(norm(x, 1e-6) * (1 + scale) + shift)
        x = x.unflatten(2, (c.patch, c.patch, c.outputs)).unflatten(1, (rows, columns))         # [B, h, w, p, q, O]
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def norm(x: Float[Tensor, "B N D"], eps: float) -> Float[Tensor, "B N D"]:
    """Layer normalisation without weights: the condition gives them."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def grid(rows: int, columns: int, dim: int, base: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Sines of the column, then of the row, at every patch; a grid of another size than `base` is spread over it."""
    half = dim // 4
    frequency = 1.0 / 10_000.0 ** (torch.arange(half, dtype=torch.float64, device=device) / half)
    row, column = (torch.arange(n, dtype=torch.float64, device=device) * base / n for n in (rows, columns))
    angles = [at[:, None] * frequency for at in (column, row)]
    across, down = (torch.cat([a.sin(), a.cos()], 1) for a in angles)
    both = torch.cat([across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], 2)
    return both.flatten(0, 1).float()


SIZES = {                                                               # table 1, patch 2 on 256 x 256 pixels
    "dit-s2": Config(dim=384, layers=12, heads=6),
    "dit-b2": Config(dim=768, layers=12, heads=12),
    "dit-l2": Config(dim=1024, layers=24, heads=16),
    "dit-xl2": Config(),
}

ROWS = (("patches", "pos_embed.proj"), ("modulation", "proj_out_1"), ("out", "proj_out_2"),
        ("blocks.{i}.condition.time.first", "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1"),
        ("blocks.{i}.condition.time.second", "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_2"),
        ("blocks.{i}.modulation", "transformer_blocks.{i}.norm1.linear"),
        *((f"blocks.{{i}}.attn.{a}", f"transformer_blocks.{{i}}.attn1.{b}")
          for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))),
        ("blocks.{i}.mlp.up", "transformer_blocks.{i}.ff.net.0.proj"),
        ("blocks.{i}.mlp.down", "transformer_blocks.{i}.ff.net.2"))
HF = NameMap(*((f"{a}.{x}", f"{b}.{x}") for a, b in ROWS for x in ("weight", "bias")),
             ("blocks.{i}.condition.label.weight",
              "transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight"), repeat=True)


def _heads(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The width is heads times their width."""
    heads = whole["num_attention_heads"]
    return {"heads": heads, "dim": heads * whole["attention_head_dim"]}


HF_CONFIG = FieldMap(
    Kind("DiTTransformer2DModel", ""),
    rows=(("inputs", "in_channels", 4), ("outputs", "out_channels", 4), ("image", "sample_size", 32),
          ("patch", "patch_size", 2), ("layers", "num_layers", 28), ("classes", "num_embeds_ada_norm", 1000)),
    fixed={"attention_bias": True, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero",
           "norm_elementwise_affine": False, "norm_eps": 1e-5, "upcast_attention": False},
    groups=(Group(("num_attention_heads", "attention_head_dim", "norm_num_groups"), lambda whole, kind: _heads(whole),
                  lambda c, kind: {"num_attention_heads": c.heads, "attention_head_dim": c.dim // c.heads}),
            class_names()))
