"""GPT-NeoX and Pythia: a decoder whose blocks add attention and feed-forward in parallel, rotary on part of each head.

Black et al. 2022, "GPT-NeoX-20B", https://arxiv.org/abs/2204.06745 section 2.1; Pythia: Biderman et al. 2023,
https://arxiv.org/abs/2304.01373 table 1. The two branches have layer norms of their own (section 2.1.2), the head is
not tied. Train one with `meristem pretrain pythia data.corpus=FOLDER`; in Python:
`Model(SIZES["pythia-70m"])`.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Cache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm
from meristem.nn.position import rotary


@dataclass(frozen=True)
class Config:
    """A GPT-NeoX's shape; hidden 0 means 4 dim. `rotary` is the share of each head that positions turn."""

    vocab: int = 50432
    context: int = 2048
    dim: int = 6144
    layers: int = 44
    heads: int = 64
    hidden: int = 0
    rotary: float = 0.25
    theta: float = 10_000.0
    eps: float = 1e-5
    activation: Activation = "gelu"
    parallel: bool = True               # False: one branch after the other, as in GPT-2
    tied: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.turned % 2 or not 0 < self.rotary <= 1:
            raise ValueError(f"rotary ({self.rotary}) of a head of {self.dim // self.heads} must be an even number > 0")

    @property
    def turned(self) -> int:
        """How many numbers of each head positions turn."""
        return int(self.dim // self.heads * self.rotary)


class Block(nn.Module):
    """x + attention(norm1 x) + mlp(norm2 x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.parallel = c.parallel
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, bias=True)
        self.mlp = MLP(c.dim, c.hidden, c.activation)

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T K"],
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        attended = self.attn(self.norm1(x), rope, positions, cache, segments)
        if self.parallel:
            return x + attended + self.mlp(self.norm2(x))
        x = x + attended
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
        """Normal with deviation sqrt(2 / 5 dim); 2 / (layers sqrt(dim)) where a branch ends; biases 0.

        Section 2.1.3: Nguyen & Salazar 2019's small init, and Wang's 2021 for outputs, whose factor 2 is for the two
        branches that are summed.
        """
        c = self.config
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                nn.init.normal_(p, std=2 / (c.layers * math.sqrt(c.dim)))
            elif p.ndim > 1:
                nn.init.normal_(p, std=math.sqrt(2 / (5 * c.dim)))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, self.config.turned, self.config.theta)
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
        return [Cache(batch, c.heads, length, c.dim // c.heads, dtype) for _ in self.blocks]


def _pythia(layers: int, dim: int, heads: int, vocab: int = 50304) -> Config:
    return Config(vocab, layers=layers, dim=dim, heads=heads)


SIZES = {
    "neox-20b": Config(activation="gelu_fast"),                # GPT-NeoX-20B section 2.1
    "pythia-14m": _pythia(6, 128, 4),                          # Pythia table 1; 14m and 31m from the Hub's configs
    "pythia-31m": _pythia(6, 256, 8),
    "pythia-70m": _pythia(6, 512, 8),
    "pythia-160m": _pythia(12, 768, 12),
    "pythia-410m": _pythia(24, 1024, 16),
    "pythia-1b": _pythia(16, 2048, 8),
    "pythia-1.4b": _pythia(24, 2048, 16),
    "pythia-2.8b": _pythia(32, 2560, 32),
    "pythia-6.9b": _pythia(32, 4096, 32, 50432),               # vocabularies are padded to what the run's split needs
    "pythia-12b": _pythia(36, 5120, 40, 50688),
}

HF = NameMap(
    ("embed.weight", "gpt_neox.embed_in.weight"),
    ("blocks.{i}.norm1.{p}", "gpt_neox.layers.{i}.input_layernorm.{p}"),
    ("blocks.{i}.attn.(q,k,v).{p}", "gpt_neox.layers.{i}.attention.query_key_value.{p}", "by head"),
    ("blocks.{i}.attn.o.{p}", "gpt_neox.layers.{i}.attention.dense.{p}"),
    ("blocks.{i}.norm2.{p}", "gpt_neox.layers.{i}.post_attention_layernorm.{p}"),
    ("blocks.{i}.mlp.up.{p}", "gpt_neox.layers.{i}.mlp.dense_h_to_4h.{p}"),
    ("blocks.{i}.mlp.down.{p}", "gpt_neox.layers.{i}.mlp.dense_4h_to_h.{p}"),
    ("norm.{p}", "gpt_neox.final_layer_norm.{p}"),
    ("head.weight", "embed_out.weight"),
    ignore=("gpt_neox.layers.{i}.attention.bias", "gpt_neox.layers.{i}.attention.masked_bias",     # masks and angles
            "gpt_neox.layers.{i}.attention.rotary_emb.inv_freq"),                                   # in old files
)

HF_CONFIG = FieldMap(
    Kind("GPTNeoXForCausalLM", "gpt_neox"),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings", 2048),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("hidden", "intermediate_size"),
        ("rotary", "rope_parameters.partial_rotary_factor|rotary_pct", 0.25),      # transformers 5 | 4
        ("theta", "rope_parameters.rope_theta|rotary_emb_base", 10_000.0),
        ("eps", "layer_norm_eps", 1e-5),
        ("activation", "hidden_act", "gelu"),
        ("parallel", "use_parallel_residual", True),
        ("tied", "tie_word_embeddings", False),
    ),
    fixed={"attention_bias": True, "rope_parameters.rope_type|rope_scaling.rope_type|rope_scaling.type": "default"},
    write=("attention_bias", "rope_parameters.rope_type"),
)
