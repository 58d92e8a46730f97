"""GPT-2 and its line: GPT-3, Megatron-Turing, Codex: a decoder with learned positions, LayerNorm and biases.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3 (layer norms before each
sub-block, one more at the end, tied head); GPT-3: Brown et al. 2020, https://arxiv.org/abs/2005.14165, table 2.1.
GPT-3 attends in a locally banded pattern in every second layer, whose width the paper does not give: here all layers
are dense, as in every open reproduction. `bias=False` is nanoGPT's bias-free variant, which transformers does not know.
Train one with `meristem pretrain gpt2 data.corpus=FOLDER`; in Python: `Model(SIZES["gpt2"])`.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Cache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm


@dataclass(frozen=True)
class Config:
    """A GPT-2's shape; hidden 0 means 4 dim. `context` is also the number of learned positions: none lie beyond."""

    vocab: int = 50257
    context: int = 1024
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    activation: Activation = "gelu_new"
    eps: float = 1e-5
    tied: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1 = LayerNorm(c.dim, c.eps, c.bias)
        self.attn = Attention(c.dim, c.heads, bias=c.bias)
        self.norm2 = LayerNorm(c.dim, c.eps, c.bias)
        self.mlp = MLP(c.dim, c.hidden, c.activation, c.bias)

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"] | None = None,
                cache: Cache | None = None, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), None, positions, cache, segments)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.place = Embedding(c.context, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps, c.bias)
        self.head = Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02), positions 0.01, biases 0; residual outputs divided by sqrt(2 layers).

        GPT-2 section 2.3 and the published code (openai/gpt-2, src/model.py: wpe 0.01, wte and all matrices 0.02).
        """
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.layers))
            elif p.ndim > 1:
                nn.init.normal_(p, std=0.01 if name == "place.weight" else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        if positions is None and tokens.shape[1] > self.config.context:
            raise RequestError(f"{tokens.shape[1]} tokens exceed the {self.config.context} positions that the model "
                               "has learned; shorten the text")
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        x = self.embed(tokens) + self.place(at)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, cache[i] if cache else None, segments)
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


def _gpt3(layers: int, dim: int, heads: int, vocab: int = 50257) -> Config:
    return Config(vocab, 2048, dim, layers, heads)


SIZES = {
    "gpt2": Config(),                                          # GPT-2 table 2; the README of openai/gpt-2: 124M
    "gpt2-medium": Config(dim=1024, layers=24, heads=16),
    "gpt2-large": Config(dim=1280, layers=36, heads=20),
    "gpt2-xl": Config(dim=1600, layers=48, heads=25),
    "nanogpt": Config(bias=False),                             # nanoGPT's transformer_sizing.ipynb
    "gpt3-small": _gpt3(12, 768, 12),                          # GPT-3 table 2.1, sizes as table D.1 counts them
    "gpt3-medium": _gpt3(24, 1024, 16),
    "gpt3-large": _gpt3(24, 1536, 16),
    "gpt3-xl": _gpt3(24, 2048, 32),                            # printed as 24 heads of 128, which is not 2048
    "gpt3-2.7b": _gpt3(32, 2560, 32),
    "gpt3-6.7b": _gpt3(32, 4096, 32),
    "gpt3-13b": _gpt3(40, 5120, 40),                           # printed as 5140, which 40 heads of 128 are not
    "gpt3-175b": _gpt3(96, 12288, 96),
    "mt-nlg-530b": _gpt3(105, 20480, 128, 51200),              # Smith et al. 2022, https://arxiv.org/abs/2201.11990
    # Chen et al. 2021, https://arxiv.org/abs/2107.03374: GPT-3's 12B, with runs of 2 to 25 spaces as 24 more tokens
    "codex-12b": Config(vocab=50281, context=4096, dim=5120, layers=40, heads=40),
}

HF = NameMap(
    ("embed.weight", "transformer.wte.weight"),
    ("place.weight", "transformer.wpe.weight"),
    ("blocks.{i}.norm1.{p}", "transformer.h.{i}.ln_1.{p}"),
    ("blocks.{i}.attn.(q,k,v).weight", "transformer.h.{i}.attn.c_attn.weight", "T"),
    ("blocks.{i}.attn.(q,k,v).bias", "transformer.h.{i}.attn.c_attn.bias"),
    ("blocks.{i}.attn.o.weight", "transformer.h.{i}.attn.c_proj.weight", "T"),
    ("blocks.{i}.attn.o.bias", "transformer.h.{i}.attn.c_proj.bias"),
    ("blocks.{i}.norm2.{p}", "transformer.h.{i}.ln_2.{p}"),
    ("blocks.{i}.mlp.up.weight", "transformer.h.{i}.mlp.c_fc.weight", "T"),
    ("blocks.{i}.mlp.up.bias", "transformer.h.{i}.mlp.c_fc.bias"),
    ("blocks.{i}.mlp.down.weight", "transformer.h.{i}.mlp.c_proj.weight", "T"),
    ("blocks.{i}.mlp.down.bias", "transformer.h.{i}.mlp.c_proj.bias"),
    ("norm.{p}", "transformer.ln_f.{p}"),
    ("head.weight", "lm_head.weight"),
    ignore=("transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias"),      # masks that old files carry
    prefix="transformer.",                                     # the Hub's gpt2 was saved without its head
)

HF_CONFIG = FieldMap(
    Kind("GPT2LMHeadModel", "gpt2", {"bias": True}),
    Kind("BiasFreeGPT2LMHeadModel", "gpt2_bias_free", {"bias": False}),                # ours alone
    rows=(
        ("vocab", "vocab_size"),
        ("context", "n_positions|n_ctx", 1024),
        ("dim", "n_embd"),
        ("layers", "n_layer"),
        ("heads", "n_head"),
        ("hidden", "n_inner", 0),
        ("activation", "activation_function", "gelu_new"),
        ("eps", "layer_norm_epsilon", 1e-5),
        ("tied", "tie_word_embeddings", True),
    ),
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    write=("scale_attn_weights",),
)
