"""Llama 4's text model: mixtures of experts with a shared expert, and layers with and without rotary positions.

Meta 2025, https://ai.meta.com/blog/llama-4-multimodal-intelligence/ and llama-models, models/llama4/model.py. Beside a
Llama (`models/llama.py`):
  experts       each token goes through the shared expert and `top_k` others, scaled by sigmoids on their way in
  every fourth  layer has no rotary positions (NoPE) and sees everything; queries grow with the logarithm of their
  layer         position there, https://arxiv.org/abs/2501.19399, since a softmax over more keys is flatter
  other layers  turn queries and keys (pairs 2i, 2i + 1), then scale them to norm 1 a number, and see their own chunk
Train one with `meristem pretrain llama4 data.corpus=FOLDER`; in Python: `Model(Config(vocab=4096, dim=256, layers=4,
heads=4, head_dim=64, hidden=256, dense_hidden=512))`.
"""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Group, Kind, NameMap
from meristem.nn.attention import Attention, Cache, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.moe import MoE
from meristem.nn.norm import RMSNorm, unit
from meristem.nn.position import SCALING, UNSCALED, Scaling, rotary, rotate

AUTO = (-1,)                            # layers that follow from the rest of the config


@dataclass(frozen=True)
class Config:
    """The shape; groups = 0 means heads. `hidden` is the width of one expert, the shared one too."""

    vocab: int = 202_048
    context: int = 131_072
    dim: int = 5120
    layers: int = 48
    heads: int = 40
    groups: int = 8
    head_dim: int = 128
    hidden: int = 8192
    dense_hidden: int = 16_384          # width of the feed-forward network of layers without experts
    experts: int = 16
    top_k: int = 1
    every: int = 1                      # layers i with (i + 1) % every == 0 have experts ...
    sparse: tuple[int, ...] = AUTO      # ... or these, if given
    nope: tuple[int, ...] = AUTO        # layers without rotary positions; AUTO: every fourth
    whole: tuple[int, ...] = AUTO       # layers that see every chunk; AUTO: those without rotary positions
    chunk: int = 8192                   # positions that see each other in the other layers; 0: all
    unit_qk: bool = True                # queries and keys of rotary layers to norm 1 a number
    warm: bool = True                   # scale the queries of layers without rotary positions:
    warm_scale: float = 0.1             # 1 + scale * log(1 + floor((position + 1) / floor))
    warm_floor: int = 8192
    theta: float = 500_000.0
    scaling: Scaling = UNSCALED         # of rotary positions; its `original` becomes the context where it is 0
    eps: float = 1e-5
    tied: bool = False
    bias: bool = False                  # of attention's four matrices
    balance_loss: float = 0.001         # coefficient of the balance loss, a layer (nn.moe)

    def __post_init__(self) -> None:
        set_, layers = object.__setattr__, range(self.layers)
        set_(self, "groups", self.groups or self.heads)
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) must be a multiple of groups ({self.groups})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        if self.scaling.kind in ("dynamic", "yarn", "llama3") and not self.scaling.original:
            set_(self, "scaling", replace(self.scaling, original=self.context))
        if self.every < 1:
            raise ValueError(f"every ({self.every}) must be at least 1")
        for name, step in (("sparse", self.every), ("nope", 4), ("whole", 4)):
            which = getattr(self, name)
            if which == AUTO:
                which = self.nope if name == "whole" else tuple(i for i in layers if (i + 1) % step == 0)
            if not set(which) <= set(layers):
                raise ValueError(f"{name} ({which}) names more than the {self.layers} layers")
            set_(self, name, which)
        if not self.chunk or len(self.whole) == self.layers:   # two ways to say it: no layer has chunks
            set_(self, "chunk", 0)
            set_(self, "whole", tuple(layers))


class Attention4(Attention):
    """Attention of one layer: turned or not, in chunks or not."""

    def __init__(self, c: Config, layer: int):
        super().__init__(c.dim, c.heads, groups=c.groups, head_dim=c.head_dim, bias=c.bias,
                         reach=Reach(chunk=0 if layer in c.whole else c.chunk))
        self.config, self.turned = c, layer not in c.nope

    def project(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T F"] | None,
                positions: Int[Tensor, "B T"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, K], keys and values [B, T, G, K]."""
        c = self.config
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)) for f in (self.q, self.k, self.v))
        if self.turned:
            assert rope is not None
            q, k = rotate(q, rope, interleaved=True), rotate(k, rope, interleaved=True)
            return (unit(q, c.eps), unit(k, c.eps), v) if c.unit_qk else (q, k, v)
        if c.warm:
            at = torch.arange(x.shape[1], device=x.device) if positions is None else positions
            grow = 1 + c.warm_scale * ((at + 1) // c.warm_floor).float().log1p()
            q = q * grow[..., None, None].to(q.dtype)
        return q, k, v


class Block(nn.Module):
    """x + attention(norm x), then x + experts(norm x)."""

    def __init__(self, c: Config, layer: int):
        super().__init__()
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.attn = Attention4(c, layer)
        self.norm2 = RMSNorm(c.dim, c.eps)
        self.mlp = MoE(c.dim, c.hidden, c.experts, c.top_k, score="sigmoid", normalise=False, scale_input=True,
                       shared=c.hidden, balance_loss=c.balance_loss) if layer in c.sparse else GatedMLP(
                           c.dim, c.dense_hidden)

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
        """Normal(0, 0.02); zero in biases and what writes into the residual stream: blocks start as the identity."""
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "down.weight", "experts.down", "bias")):
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


SIZES = {                                                      # llama-models' model card and the checkpoints' params
    "llama4-scout": Config(context=10_485_760, scaling=Scaling("llama3", 16.0, 8192, low=1.0, high=1.0)),
    "llama4-maverick": Config(context=1_048_576, experts=128, every=2, unit_qk=False),
}

HF = NameMap(
    ("embed.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.norm1.weight", "model.layers.{i}.input_layernorm.weight"),
    *((f"blocks.{{i}}.attn.{p}.{{w}}", f"model.layers.{{i}}.self_attn.{p}_proj.{{w}}") for p in "qkvo"),
    ("blocks.{i}.norm2.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    ("blocks.{i}.mlp.router.weight", "model.layers.{i}.feed_forward.router.weight"),
    ("blocks.{i}.mlp.experts.(gate,up)", "model.layers.{i}.feed_forward.experts.gate_up_proj", "T"),
    ("blocks.{i}.mlp.experts.down", "model.layers.{i}.feed_forward.experts.down_proj", "T"),
    *((f"blocks.{{i}}.mlp.shared.{p}.weight", f"model.layers.{{i}}.feed_forward.shared_expert.{p}_proj.weight")
      for p in ("gate", "up", "down")),
    *((f"blocks.{{i}}.mlp.{p}.weight", f"model.layers.{{i}}.feed_forward.{p}_proj.weight")
      for p in ("gate", "up", "down")),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
)


def _read_layers(theirs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Which layers have experts, no rotation, no chunks: lists, or the intervals that stand for them."""
    layers, interval = theirs["num_hidden_layers"], theirs.get("no_rope_layer_interval", 4)
    turned = theirs.get("no_rope_layers") or [(i + 1) % interval for i in range(layers)]
    types = theirs.get("layer_types") or ["chunked_attention" if t else "full_attention" for t in turned]
    if len(turned) < layers or len(types) < layers or set(types) - {"chunked_attention", "full_attention"}:
        raise ValueError(f"no_rope_layers and layer_types must say for each of {layers} layers whether it is turned "
                         "and whether it has chunked_attention or full_attention")
    every = theirs.get("interleave_moe_layer_step", 1)
    sparse = theirs.get("moe_layers")
    return {"every": every, "sparse": range(every - 1, layers, every) if sparse is None else sparse,
            "nope": [i for i in range(layers) if not turned[i]],
            "whole": [i for i in range(layers) if types[i] == "full_attention"],
            "chunk": theirs.get("attention_chunk_size", 8192) or 0}


def _write_layers(c: Config, kind: Kind) -> dict[str, Any]:
    chunk = c.chunk or c.context                               # transformers 5.23 wants a size even where none is used
    return {"attention_chunk_size": chunk, "interleave_moe_layer_step": c.every, "moe_layers": list(c.sparse),
            "no_rope_layers": [int(i not in c.nope) for i in range(c.layers)],
            "layer_types": ["full_attention" if i in c.whole else "chunked_attention" for i in range(c.layers)]}


HF_CONFIG = FieldMap(
    Kind("Llama4ForCausalLM", "llama4_text"),
    Kind("Llama4ForConditionalGeneration", "llama4", part=("text_config", "language_model.")),     # with pictures
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("groups", "num_key_value_heads", 0),
        ("head_dim", "head_dim", 128),
        ("hidden", "intermediate_size"),
        ("dense_hidden", "intermediate_size_mlp"),
        ("experts", "num_local_experts"),
        ("top_k", "num_experts_per_tok"),
        ("unit_qk", "use_qk_norm", True),
        ("warm", "attn_temperature_tuning", True),
        ("warm_scale", "attn_scale", 0.1),
        ("warm_floor", "floor_scale", 8192),
        ("theta", "rope_parameters.rope_theta|rope_theta", 500_000.0),  # transformers 5 | 4
        ("eps", "rms_norm_eps", 1e-5),
        ("tied", "tie_word_embeddings", False),
        ("bias", "attention_bias", False),
        ("balance_loss", "router_aux_loss_coef", 0.001),
    ),
    fixed={"hidden_act": "silu", "router_jitter_noise": 0.0, "for_llm_compressor": False},
    write=("hidden_act",),
    groups=(SCALING, Group(("attention_chunk_size", "interleave_moe_layer_step", "moe_layers", "no_rope_layer*",
                            "layer_types"), _read_layers, _write_layers)),
)
