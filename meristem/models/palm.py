"""PaLM: a parallel block under one layer norm, multi-query attention, SwiGLU, a shared embedding, no biases anywhere.

Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 2 (shapes: table 1; initialisation: section 5). Where
the paper is silent we choose: LayerNorm with eps 1e-6, rotary pairs (i, i + K/2) with base 10,000. No PaLM was
published and transformers has no such architecture: folders are saved under the name PalmForCausalLM with Llama's
tensor names (one `input_layernorm`, no `post_attention_layernorm`, no `lm_head`); transformers refuses them by name.
Train one with `meristem pretrain palm data.corpus=FOLDER`; in Python: `Model(SIZES["palm-8b"])`.
"""
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Cache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.norm import LayerNorm
from meristem.nn.position import rotary


@dataclass(frozen=True)
class Config:
    """A PaLM's shape; 0 means derived: head_dim = dim / heads (the paper's is 256), hidden = 4 dim."""

    vocab: int = 256_000
    context: int = 2048
    dim: int = 4096
    layers: int = 32
    heads: int = 16
    head_dim: int = 0
    hidden: int = 0
    theta: float = 10_000.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "head_dim", self.head_dim or self.dim // self.heads)
        set_(self, "hidden", self.hidden or 4 * self.dim)
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")


class Block(nn.Module):
    """x + attention(norm x) + mlp(norm x), one norm for both."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm = LayerNorm(c.dim, c.eps, bias=False)
        self.attn = Attention(c.dim, c.heads, groups=1, head_dim=c.head_dim)
        self.mlp = GatedMLP(c.dim, c.hidden)

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T K"],
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        y = self.norm(x)
        return x + self.attn(y, rope, positions, cache, segments) + self.mlp(y)


class Model(nn.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps, bias=False)
        self.head = Linear(c.dim, c.vocab, bias=False)
        self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Matrices normal(0, 1 / sqrt(inputs)), the embedding normal(0, 1), since no norm follows it (section 5)."""
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=1.0 if name == "embed.weight" else p.shape[1] ** -0.5)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """What the head reads: the last layer's normalised output over sqrt(D), so that logits start at unit variance
        under the shared normal(0, 1) embedding (section 5); see `nn.attention` for `positions` and `segments`."""
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, self.config.head_dim, self.config.theta)
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, positions, cache[i] if cache else None, segments)
        return self.norm(x) * self.config.dim**-0.5

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Cache] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the compute type."""
        return self.head(self.features(tokens, positions, cache, segments))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty key/value buffers for `batch` rows of at most `length` positions, one a layer."""
        c, dtype = self.config, self.embed.compute or self.embed.weight.dtype
        return [Cache(batch, 1, length, c.head_dim, dtype) for _ in self.blocks]


SIZES = {                                                       # table 1; heads are 256 wide
    "palm-8b": Config(head_dim=256),
    "palm-62b": Config(dim=8192, layers=64, heads=32, head_dim=256),
    "palm-540b": Config(dim=18432, layers=118, heads=48, head_dim=256),
}

HF = NameMap(
    ("embed.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.norm.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blocks.{i}.attn.q.weight", "model.layers.{i}.self_attn.q_proj.weight"),
    ("blocks.{i}.attn.k.weight", "model.layers.{i}.self_attn.k_proj.weight"),
    ("blocks.{i}.attn.v.weight", "model.layers.{i}.self_attn.v_proj.weight"),
    ("blocks.{i}.attn.o.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    ("blocks.{i}.mlp.gate.weight", "model.layers.{i}.mlp.gate_proj.weight"),
    ("blocks.{i}.mlp.up.weight", "model.layers.{i}.mlp.up_proj.weight"),
    ("blocks.{i}.mlp.down.weight", "model.layers.{i}.mlp.down_proj.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
)

HF_CONFIG = FieldMap(
    Kind("PalmForCausalLM", "palm"),                           # ours alone
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("head_dim", "head_dim"),
        ("hidden", "intermediate_size"),
        ("theta", "rope_parameters.rope_theta"),
        ("eps", "layer_norm_eps"),
    ),
    fixed={"hidden_act": "silu", "num_key_value_heads": 1, "tie_word_embeddings": True, "use_bias": False},
    write=("hidden_act", "num_key_value_heads", "tie_word_embeddings", "use_bias"),
)
