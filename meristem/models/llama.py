"""LLaMA: a decoder-only transformer with rotary positions, RMSNorm, SwiGLU and grouped-query attention.

Touvron et al. 2023, https://arxiv.org/abs/2302.13971 (table 2); Llama 2, https://arxiv.org/abs/2307.09288.
`qk_norm` normalises queries and keys per head (Qwen3, https://arxiv.org/abs/2505.09388 section 2). Train one with
`meristem pretrain llama data.corpus=FOLDER`; in Python: `Model(Config(vocab=4096, dim=256, layers=4, heads=4))`.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Cache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.norm import RMSNorm
from meristem.nn.position import rotary


@dataclass(frozen=True)
class Config:
    """A Llama's shape; 0 means derived: groups = heads, head_dim = dim / heads, hidden = 8/3 dim, rounded up to 64s."""

    vocab: int = 32000
    context: int = 4096
    dim: int = 4096
    layers: int = 32
    heads: int = 32
    groups: int = 0
    head_dim: int = 0
    hidden: int = 0
    theta: float = 10_000.0
    eps: float = 1e-5
    tied: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "groups", self.groups or self.heads)
        set_(self, "head_dim", self.head_dim or self.dim // self.heads)
        set_(self, "hidden", self.hidden or 64 * math.ceil(8 * self.dim / 3 / 64))
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) must be a multiple of groups ({self.groups})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, groups=c.groups, head_dim=c.head_dim, qk_norm=c.qk_norm, eps=c.eps)
        self.norm2 = RMSNorm(c.dim, c.eps)
        self.mlp = GatedMLP(c.dim, c.hidden)

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T K"],
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), rope, positions, cache, segments)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        self.head = Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02); zero in the two layers that write into the residual stream: blocks start as the identity.

        Zhang, Dauphin & Ma 2019, https://arxiv.org/abs/1901.09321; 350 steps of Muon on characters end at 1.634 nats
        instead of 1.652 (docs/log.md).
        """
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                nn.init.zeros_(p)
            elif p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, self.config.head_dim, self.config.theta)
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, positions, cache[i] if cache else None, segments)
        return self.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Cache] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the compute type."""
        return self.head(self.features(tokens, positions, cache, segments))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty key/value buffers for `batch` rows of at most `length` positions, one a layer."""
        c, dtype = self.config, self.embed.compute or self.embed.weight.dtype
        return [Cache(batch, c.groups, length, c.head_dim, dtype) for _ in self.blocks]


SIZES = {                                                       # LLaMA table 2; Llama 2 table 1
    "llama-7b": Config(context=2048, hidden=11008, eps=1e-6),
    "llama-13b": Config(context=2048, dim=5120, layers=40, heads=40, hidden=13824, eps=1e-6),
    "llama-33b": Config(context=2048, dim=6656, layers=60, heads=52, hidden=17920, eps=1e-6),
    "llama-65b": Config(context=2048, dim=8192, layers=80, heads=64, hidden=22016, eps=1e-6),
    "llama2-7b": Config(hidden=11008),
    "llama2-70b": Config(dim=8192, layers=80, heads=64, groups=8, hidden=28672),
}

HF = NameMap(
    ("embed.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.norm1.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blocks.{i}.attn.q.weight", "model.layers.{i}.self_attn.q_proj.weight"),
    ("blocks.{i}.attn.k.weight", "model.layers.{i}.self_attn.k_proj.weight"),
    ("blocks.{i}.attn.v.weight", "model.layers.{i}.self_attn.v_proj.weight"),
    ("blocks.{i}.attn.o.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    ("blocks.{i}.attn.q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
    ("blocks.{i}.attn.k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
    ("blocks.{i}.norm2.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    ("blocks.{i}.mlp.gate.weight", "model.layers.{i}.mlp.gate_proj.weight"),
    ("blocks.{i}.mlp.up.weight", "model.layers.{i}.mlp.up_proj.weight"),
    ("blocks.{i}.mlp.down.weight", "model.layers.{i}.mlp.down_proj.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ignore=("model.layers.{i}.self_attn.rotary_emb.inv_freq",),        # a buffer that transformers < 4.32 saved
)

HF_CONFIG = FieldMap(
    Kind("LlamaForCausalLM", "llama", {"qk_norm": False}),
    Kind("MistralForCausalLM", "mistral", {"qk_norm": False}),          # read only: written as the equal Llama
    Kind("Qwen3ForCausalLM", "qwen3", {"qk_norm": True}, absent={"head_dim": 128}),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("groups", "num_key_value_heads", 0),
        ("head_dim", "head_dim", 0),
        ("hidden", "intermediate_size"),
        ("theta", "rope_parameters.rope_theta|rope_theta", 10_000.0),   # transformers 5 | 4
        ("eps", "rms_norm_eps", 1e-6),
        ("tied", "tie_word_embeddings", False),
    ),
    fixed={
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters.rope_type|rope_scaling.rope_type|rope_scaling.type": "default",
        "rope_parameters.partial_rotary_factor|partial_rotary_factor": 1.0,
        "layer_types": "full_attention",
        "sliding_window": None,
    },
    write=("hidden_act", "attention_bias", "mlp_bias", "rope_parameters.rope_type"),
)
