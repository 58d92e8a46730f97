"""StarCoder2: a code model with grouped-query attention in a sliding window, rotary positions, LayerNorm and biases.

Lozhkov et al. 2024, https://arxiv.org/abs/2402.19173, section 6.1 and table 6. It is trained to fill in the middle
(`objectives/fill_in_the_middle.py`); `meristem pretrain starcoder2 data.corpus=FOLDER` trains a small one. In Python:
`Model(SIZES["starcoder2-3b"])`.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Cache, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm
from meristem.nn.position import rotary


@dataclass(frozen=True)
class Config:
    """A StarCoder2's shape; 0 means derived: groups = heads, hidden = 4 dim, and no window."""

    vocab: int = 49152
    context: int = 16384
    dim: int = 3072
    layers: int = 30
    heads: int = 24
    groups: int = 0
    hidden: int = 0
    window: int = 0                     # the last so many positions, a token's own included
    theta: float = 10_000.0
    eps: float = 1e-5
    activation: Activation = "gelu_pytorch_tanh"
    bias: bool = True
    tied: bool = True

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "groups", self.groups or self.heads)
        set_(self, "hidden", self.hidden or 4 * self.dim)
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) must be a multiple of groups ({self.groups})")
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim ({self.dim}) must be an even multiple of heads ({self.heads}) for rotary positions")


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1 = LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, groups=c.groups, bias=c.bias, reach=Reach(window=c.window))
        self.norm2 = LayerNorm(c.dim, c.eps)
        self.mlp = MLP(c.dim, c.hidden, c.activation, c.bias)

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
        self.norm = LayerNorm(c.dim, c.eps)
        self.head = Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Normal with deviation 1 / sqrt(dim) (the published configs' 0.018042 at 3,072), biases 0.

        Residual outputs are divided by sqrt(2 layers), as Megatron-LM does, which trained it.
        """
        c = self.config
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                nn.init.normal_(p, std=1 / math.sqrt(2 * c.layers * c.dim))
            elif p.ndim > 1:
                nn.init.normal_(p, std=1 / math.sqrt(c.dim))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        c = self.config
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, c.dim // c.heads, c.theta)
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
        return [Cache(batch, c.groups, length, c.dim // c.heads, dtype) for _ in self.blocks]


SIZES = {                                                       # table 6; window and rotary base from the Hub's configs
    "starcoder2-3b": Config(groups=2, window=4096, theta=999_999.4420358813),
    "starcoder2-7b": Config(dim=4608, layers=32, heads=36, groups=4, window=4096, theta=1e6),
    "starcoder2-15b": Config(dim=6144, layers=40, heads=48, groups=4, window=4096, theta=1e5, tied=False),
}

HF = NameMap(
    ("embed.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.norm1.{p}", "model.layers.{i}.input_layernorm.{p}"),
    ("blocks.{i}.attn.q.{p}", "model.layers.{i}.self_attn.q_proj.{p}"),
    ("blocks.{i}.attn.k.{p}", "model.layers.{i}.self_attn.k_proj.{p}"),
    ("blocks.{i}.attn.v.{p}", "model.layers.{i}.self_attn.v_proj.{p}"),
    ("blocks.{i}.attn.o.{p}", "model.layers.{i}.self_attn.o_proj.{p}"),
    ("blocks.{i}.norm2.{p}", "model.layers.{i}.post_attention_layernorm.{p}"),
    ("blocks.{i}.mlp.up.{p}", "model.layers.{i}.mlp.c_fc.{p}"),
    ("blocks.{i}.mlp.down.{p}", "model.layers.{i}.mlp.c_proj.{p}"),
    ("norm.{p}", "model.norm.{p}"),
    ("head.weight", "lm_head.weight"),
)

HF_CONFIG = FieldMap(
    Kind("Starcoder2ForCausalLM", "starcoder2"),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("groups", "num_key_value_heads", 0),
        ("hidden", "intermediate_size"),
        ("window", "sliding_window", None),
        ("theta", "rope_parameters.rope_theta|rope_theta", 10_000.0),   # transformers 5 | 4
        ("eps", "norm_epsilon", 1e-5),
        ("activation", "hidden_act", "gelu_pytorch_tanh"),
        ("bias", "use_bias", True),
        ("tied", "tie_word_embeddings", True),
    ),
    fixed={"rope_parameters.rope_type|rope_scaling.rope_type|rope_scaling.type": "default",
           "norm_type": "layer_norm", "mlp_type": "default"},   # what early configs could say
    write=("rope_parameters.rope_type",),
)
