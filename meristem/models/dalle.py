"""DALL-E: one decoder over the tokens of a caption and of its picture.

Ramesh et al. 2021, https://arxiv.org/abs/2102.12092 (sections 2.2 and 2.3, appendix B): `text` places for the caption,
then a grid of image tokens row by row, which an autoencoder with a codebook makes and reads (models/autoencoder.py).
Image places have a row and a column embedding; padding of the caption has an embedding of its own at every place. Ids:
text below `vocab`, then `codes` image tokens; a caption closes with `end`, and every further `end` is padding. The
paper's layers see a row, a column or a neighbourhood of the picture in turn; here all are dense. In Python:

    model = Model(Config(vocab=512, codes=128, text=16, grid=8, dim=192, layers=4, heads=4))
    model(tokens)                                              # [B, T, vocab + codes]
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


@dataclass(frozen=True)
class Config:
    """The shape of the decoder and of what it reads; hidden 0 means 4 dim."""

    vocab: int = 16384                  # of captions
    codes: int = 8192                   # image tokens
    text: int = 256                     # places of a caption
    grid: int = 32                      # image tokens a side
    dim: int = 3968
    layers: int = 64
    heads: int = 62
    hidden: int = 0
    activation: Activation = "gelu"
    eps: float = 1e-5
    end: int = 0                        # the id that closes a caption

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")

    @property
    def context(self) -> int:
        """Places of a caption and its picture."""
        return self.text + self.grid**2


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, bias=True)
        self.mlp = MLP(c.dim, c.hidden, c.activation)

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"] | None = None,
                cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), None, positions, cache)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Token ids -> logits of the next token, a word or an image token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab + c.codes + c.text, c.dim)      # the last for padding
        self.place, self.row, self.column = (Embedding(n, c.dim) for n in (c.text, c.grid, c.grid))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps)
        self.head = Linear(c.dim, c.vocab + c.codes, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """As GPT-2: Normal(0, 0.02), biases 0, residual outputs divided by sqrt(2 layers)."""
        for name, p in self.named_parameters():
            if p.ndim > 1:
                deep = name.endswith(("attn.o.weight", "mlp.down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.layers) if deep else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def where(self, at: Int[Tensor, "*B T"]) -> Float[Tensor, "*B T D"]:
        """What a place adds to its token: the caption's own embedding, or row and column of the picture."""
        c = self.config
        cell = (at - c.text).clamp(min=0)
        picture = self.row(cell // c.grid) + self.column(cell % c.grid)
        return torch.where((at < c.text)[..., None], self.place(at.clamp(max=c.text - 1)), picture)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; without `positions` a row begins with its caption."""
        c = self.config
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        ends = tokens == c.end
        padding = ends & (ends.cumsum(1) > 1)                  # image tokens, one at a time, are never `end`
        x = self.embed(torch.where(padding, c.vocab + c.codes + at.clamp(max=c.text - 1), tokens)) + self.where(at)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, cache[i] if cache else None)
        return self.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Cache] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, vocab + codes] in the compute type."""
        return self.head(self.features(tokens, positions, cache))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty key/value buffers for `batch` rows of at most `length` positions, one a layer."""
        c, dtype = self.config, self.embed.compute or self.embed.weight.dtype
        return [Cache(batch, c.heads, length, c.dim // c.heads, dtype) for _ in self.blocks]


SIZES = {
    "dalle-12b": Config(),                                     # appendix B.1: 64 layers, 62 heads of 64
}

HF = NameMap(
    ("embed.weight", "embed.weight"), ("place.weight", "place.weight"), ("row.weight", "row.weight"),
    ("column.weight", "column.weight"), ("head.weight", "head.weight"), ("norm.{x}", "norm.{x}"),
    *((f"blocks.{{i}}.{part}.{{x}}", f"blocks.{{i}}.{part}.{{x}}")
      for part in ("norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")))

HF_CONFIG = FieldMap(
    Kind("DalleForTextToImage", "meristem_dalle"),             # ours alone: the paper's weights were never given away
    rows=(("vocab", "vocab_size"), ("codes", "image_vocab_size"), ("text", "text_length"), ("grid", "image_grid"),
          ("dim", "hidden_size"), ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"),
          ("hidden", "intermediate_size"), ("activation", "hidden_act"), ("eps", "layer_norm_epsilon"),
          ("end", "caption_end", 0)),
    fixed={})
