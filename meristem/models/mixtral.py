"""Mixtral: a Llama whose feed-forward layers are mixtures of experts; Qwen3-MoE with its query and key norms.

Jiang et al. 2024, https://arxiv.org/abs/2401.04088 (table 1); Qwen3, https://arxiv.org/abs/2505.09388 (table 2).
Train one with `meristem pretrain mixtral data.corpus=FOLDER`; in Python: `Model(Config(vocab=4096, dim=256, layers=4,
heads=4, hidden=256))`. `balance_rate` > 0 balances the experts by biases instead of a loss (nn.moe); what it trains is
written as an architecture of our own, since no Mixtral elsewhere has such a bias.
"""
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, FieldMaps, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Cache, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.moe import MoE
from meristem.nn.norm import RMSNorm
from meristem.nn.position import SCALING, UNSCALED, Scaling, rotary


@dataclass(frozen=True)
class Config:
    """The shape; 0 means derived: groups = heads, head_dim = dim / heads. `hidden` is the width of one expert."""

    vocab: int = 32000
    context: int = 32768
    dim: int = 4096
    layers: int = 32
    heads: int = 32
    groups: int = 0
    head_dim: int = 0
    hidden: int = 14336
    experts: int = 8
    top_k: int = 2
    normalise: bool = True              # the weights of the chosen experts sum to 1
    every: int = 1                      # layers i with (i + 1) % every == 0 have experts ...
    dense: tuple[int, ...] = ()         # ... but for these; the rest have one feed-forward network ...
    dense_hidden: int = 0               # ... of this width
    window: int = 0                     # sliding window of attention; 0 = none
    theta: float = 1_000_000.0
    eps: float = 1e-5
    tied: bool = False
    qk_norm: bool = False
    scaling: Scaling = UNSCALED         # of rotary positions; its `original` becomes the context where it is 0
    balance_loss: float = 0.01          # coefficient of the balance loss, a layer; Switch's choice
    balance_rate: float = 0.0           # step of loss-free balancing; Wang et al. use 0.001

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "groups", self.groups or self.heads)
        set_(self, "head_dim", self.head_dim or self.dim // self.heads)
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) must be a multiple of groups ({self.groups})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        if self.scaling.kind in ("dynamic", "yarn", "llama3") and not self.scaling.original:
            set_(self, "scaling", replace(self.scaling, original=self.context))
        if self.every < 1 or not all(0 <= i < self.layers for i in self.dense):
            raise ValueError(f"every ({self.every}) must be at least 1, dense ({self.dense}) name layers "
                             f"of {self.layers}")
        if not all(map(self.sparse, range(self.layers))) and not self.dense_hidden:
            raise ValueError("layers without experts need dense_hidden, their width")

    def sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.dense and (layer + 1) % self.every == 0


class Block(nn.Module):
    """x + attention(norm x), then x + experts(norm x)."""

    def __init__(self, c: Config, layer: int):
        super().__init__()
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, groups=c.groups, head_dim=c.head_dim, qk_norm=c.qk_norm, eps=c.eps,
                              reach=Reach(window=c.window))
        self.norm2 = RMSNorm(c.dim, c.eps)
        self.mlp = MoE(c.dim, c.hidden, c.experts, c.top_k, normalise=c.normalise, balance_loss=c.balance_loss,
                       balance_rate=c.balance_rate) if c.sparse(layer) else GatedMLP(c.dim, c.dense_hidden)

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
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        self.head = Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02); zero in what writes into the residual stream, so that blocks start as the identity."""
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight", "experts.down")):
                nn.init.zeros_(p)
            elif p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, self.config.head_dim, self.config.theta, self.config.scaling)
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


QWEN = Config(vocab=151936, context=40960, normalise=True, experts=128, top_k=8, groups=4, head_dim=128, eps=1e-6,
              qk_norm=True, balance_loss=0.001)
SIZES = {                                                      # Mixtral's config files; Qwen3's table 2 and its own
    "mixtral-8x7b": Config(groups=8),
    "mixtral-8x22b": Config(context=65536, dim=6144, layers=56, heads=48, groups=8, hidden=16384),
    "qwen3-30b-a3b": replace(QWEN, dim=2048, layers=48, hidden=768, dense_hidden=6144),
    "qwen3-235b-a22b": replace(QWEN, dim=4096, layers=94, heads=64, hidden=1536, dense_hidden=12288),
}


def _names(kind: str) -> NameMap:
    """Tensor names of one kind; on disk every expert is a tensor of its own, whatever the library's memory layout."""
    layer = "model.layers.{i}."
    if kind == "mixtral":
        router, experts = layer + "block_sparse_moe.gate", layer + "block_sparse_moe.experts.{e}."
        gate, up, down = "w1.weight", "w3.weight", "w2.weight"
    else:
        router, experts = layer + "mlp.gate", layer + "mlp.experts.{e}."
        gate, up, down = "gate_proj.weight", "up_proj.weight", "down_proj.weight"
    bias = (("blocks.{i}.mlp.bias", router + ".e_score_correction_bias"),) if kind == "balanced" else ()
    return NameMap(
        ("embed.weight", "model.embed_tokens.weight"),
        ("blocks.{i}.norm1.weight", layer + "input_layernorm.weight"),
        *((f"blocks.{{i}}.attn.{p}.weight", f"{layer}self_attn.{p}_proj.weight") for p in "qkvo"),
        *((f"blocks.{{i}}.attn.{p}_norm.weight", f"{layer}self_attn.{p}_norm.weight") for p in "qk"),
        ("blocks.{i}.norm2.weight", layer + "post_attention_layernorm.weight"),
        ("blocks.{i}.mlp.router.weight", router + ".weight"),
        ("blocks.{i}.mlp.experts.gate", experts + gate),
        ("blocks.{i}.mlp.experts.up", experts + up),
        ("blocks.{i}.mlp.experts.down", experts + down),
        *((f"blocks.{{i}}.mlp.{p}.weight", f"{layer}mlp.{p}_proj.weight") for p in ("gate", "up", "down")),
        *bias,
        ("norm.weight", "model.norm.weight"),
        ("head.weight", "lm_head.weight"),
        ignore=("model.layers.{i}.self_attn.rotary_emb.inv_freq",))


ROWS: tuple[tuple[Any, ...], ...] = (
    ("vocab", "vocab_size"),
    ("context", "max_position_embeddings"),
    ("dim", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("groups", "num_key_value_heads", 0),
    ("head_dim", "head_dim", None),
    ("top_k", "num_experts_per_tok"),
    ("theta", "rope_parameters.rope_theta|rope_theta", 10_000.0),      # transformers 5 | 4
    ("eps", "rms_norm_eps", 1e-6),
    ("tied", "tie_word_embeddings", False),
    ("balance_loss", "router_aux_loss_coef", 0.001),
)
QWEN_ROWS: tuple[tuple[Any, ...], ...] = (
    ("hidden", "moe_intermediate_size"),
    ("experts", "num_local_experts|num_experts"),                       # transformers 5 | 4
    ("normalise", "norm_topk_prob", False),
    ("every", "decoder_sparse_step", 1),
    ("dense", "mlp_only_layers", ()),
    ("dense_hidden", "intermediate_size", 0),
)
FIXED = {"hidden_act": "silu", "attention_bias": False, "router_jitter_noise": 0.0}
HOW: dict[str, Any] = {"write": ("hidden_act",), "groups": (SCALING,)}

HF_CONFIG = FieldMaps(
    FieldMap(
        Kind("MixtralForCausalLM", "mixtral", {"qk_norm": False, "normalise": True, "every": 1, "dense": (),
                                               "balance_rate": 0.0}),
        rows=(*ROWS, ("hidden", "intermediate_size"), ("experts", "num_local_experts"),
              ("window", "sliding_window", None)),
        fixed=FIXED, **HOW),
    FieldMap(
        Kind("Qwen3MoeForCausalLM", "qwen3_moe", {"qk_norm": True, "window": 0, "balance_rate": 0.0}),
        rows=(*ROWS, *QWEN_ROWS),
        fixed={**FIXED, "use_sliding_window": False}, **HOW),
    FieldMap(                                                           # ours alone: what neither of them can say
        Kind("BalancedMixtralForCausalLM", "balanced"),
        rows=(*ROWS, *QWEN_ROWS, ("qk_norm", "qk_norm"), ("window", "sliding_window", None),
              ("balance_rate", "balance_rate")),
        fixed=FIXED, **HOW),
)

HF = NameMaps(lambda config: _names(next(m for m in HF_CONFIG.maps if m.covers(config)).kinds[0].model_type))
