"""T5: an encoder-decoder that turns text into text; relative position biases, RMSNorm, no linear layer has a bias.

Raffel et al. 2020, https://arxiv.org/abs/1910.10683 (v1.0: ReLU, head tied to the embedding and scaled). v1.1, and
FLAN-T5 (Chung et al. 2022, https://arxiv.org/abs/2210.11416) with it: gated GELU of Shazeer 2020,
https://arxiv.org/abs/2002.05202, and a head of its own. Attention is not scaled: the initialisation does that.

    model = Model(SIZES["t5-small"])
    logits = model(tokens, source)                              # tokens start with config.start
    memory = model.encode(source)                               # once
    cache = model.caches(memory, length=64)
    logits = model(tokens, positions=positions, cache=cache)    # as often as needed

`source_segments` numbers the texts of a packed source and sets padding apart; a token of the decoder sees the source
places whose number is its own in `segments` (0 where none are given). Train one with `meristem pretrain t5`.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.names import FieldMap, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Cache, CrossAttention, Reach
from meristem.nn.cross import LayerCache
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, GatedMLP
from meristem.nn.norm import RMSNorm
from meristem.nn.relative import RelativeBias

GATES = {"gated-gelu": "gelu_new", "gated-silu": "silu"}        # T5's GELU is the tanh approximation


@dataclass(frozen=True)
class Config:
    """A T5's shape; decoder_layers 0 means as many as the encoder's. `context` bounds what we train and generate."""

    vocab: int = 32128
    context: int = 512
    dim: int = 512
    layers: int = 6
    decoder_layers: int = 0
    heads: int = 8
    head_dim: int = 64
    hidden: int = 2048
    feed_forward: Literal["relu", "gated-gelu", "gated-silu"] = "relu"
    buckets: int = 32
    furthest: int = 128                 # distances from here on share a bucket
    eps: float = 1e-6
    dropout: float = 0.0                # of the embeddings, the hidden layers and every branch; 0.1 in the paper
    tied: bool = True                   # v1.0: the head is the embedding and its input is scaled by dim^-0.5
    start: int = 0                      # the token that every target starts from
    head: Literal["lm", "none"] = "lm"  # "none": the encoder alone

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder_layers", self.decoder_layers or self.layers)
        if self.buckets % 4 or self.furthest <= self.buckets // 2:
            raise ValueError(f"buckets ({self.buckets}) must be a multiple of 4 and furthest ({self.furthest}) more "
                             "than half of them")


class Block(nn.Module):
    """x + attention(norm x), in the decoder x + cross(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config, decoder: bool):
        super().__init__()
        self.dropout = c.dropout
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, head_dim=c.head_dim, scale=1.0, reach=Reach(causal=decoder))
        if decoder:
            self.norm2 = RMSNorm(c.dim, c.eps)
            self.cross = CrossAttention(c.dim, c.heads, head_dim=c.head_dim, scale=1.0)
        self.norm3 = RMSNorm(c.dim, c.eps)
        self.mlp = GatedMLP(c.dim, c.hidden, activation=GATES[c.feed_forward]) if c.feed_forward in GATES else \
            MLP(c.dim, c.hidden, c.feed_forward, bias=False)

    def forward(self, x: Float[Tensor, "B T D"], bias: Float[Tensor, "*N H T K"],
                segments: Int[Tensor, "B T"] | None = None, memory: Float[Tensor, "B S D"] | None = None,
                seen: Bool[Tensor, "B #T S"] | None = None, positions: Int[Tensor, "B T"] | None = None,
                cache: LayerCache | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]; the encoder's output comes as `memory`, or as keys in the cache."""
        own = cache.own if cache else None
        x = x + self.drop(self.attn(self.norm1(x), None, positions, own, segments, bias))
        if cache:
            x = x + self.drop(self.cross(self.norm2(x), cache.keys, cache.seen))
        elif memory is not None:
            x = x + self.drop(self.cross(self.norm2(x), self.cross.keys(memory), seen))
        return x + self.drop(self.mlp(self.norm3(x)))

    def drop(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Dropout while training."""
        return F.dropout(x, self.dropout, self.training)


class Stack(nn.Module):
    """The encoder or the decoder: one relative bias for all its blocks."""

    def __init__(self, c: Config, decoder: bool):
        super().__init__()
        self.bias = RelativeBias(c.heads, buckets=c.buckets, furthest=c.furthest, causal=decoder)
        self.blocks = nn.ModuleList(Block(c, decoder) for _ in range(c.decoder_layers if decoder else c.layers))
        self.norm, self.dropout = RMSNorm(c.dim, c.eps), c.dropout

    def forward(self, x: Float[Tensor, "B T D"], segments: Int[Tensor, "B T"] | None = None,
                memory: Float[Tensor, "B S D"] | None = None, seen: Bool[Tensor, "B #T S"] | None = None,
                positions: Int[Tensor, "B T"] | None = None,
                cache: list[LayerCache] | None = None) -> Float[Tensor, "B T D"]:
        """All blocks and the last norm."""
        if cache is None:
            at = torch.arange(x.shape[1], device=x.device)
            bias = self.bias(at, at)
        else:
            assert positions is not None, "a cache needs the positions of the tokens"
            slots = torch.arange(int(positions.max()) + 1, device=x.device)
            bias = self.bias(positions, slots.expand(len(positions), -1))
        x = F.dropout(x, self.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, bias, segments, memory, seen, positions, cache[i] if cache else None)
        return F.dropout(self.norm(x), self.dropout, self.training)


class Model(nn.Module):
    """Source ids and the target so far -> logits of the next target token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.encoder = Stack(c, decoder=False)
        if c.head == "lm":
            self.decoder = Stack(c, decoder=True)
            self.head = Linear(c.dim, c.vocab, bias=False)
            if c.tied:
                self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """The paper's: normal, embeddings 1, matrices fan_in^-0.5, and the missing 1 / sqrt(head_dim) in the queries.

        An untied head starts with dim^-0.5 too, so that both versions begin near a loss of ln(vocab).
        """
        c = self.config
        for name, p in self.named_parameters():
            if name == "embed.weight":
                nn.init.normal_(p)
            elif name.endswith(".table.weight"):
                nn.init.normal_(p, std=c.dim**-0.5)
            elif p.ndim > 1:
                fan_in = p.shape[1] * (c.head_dim if name.endswith(".q.weight") else 1)
                nn.init.normal_(p, std=fan_in**-0.5)

    def encode(self, source: Int[Tensor, "B S"],
               source_segments: Int[Tensor, "B S"] | None = None) -> Float[Tensor, "B S D"]:
        """The encoder's normalised output."""
        return self.encoder(self.embed(source), source_segments)

    def features(self, tokens: Int[Tensor, "B T"], source: Int[Tensor, "B S"] | None = None,
                 source_segments: Int[Tensor, "B S"] | None = None, positions: Int[Tensor, "B T"] | None = None,
                 cache: list[LayerCache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The decoder's output as the head takes it, which is scaled in v1.0. Needs `source` or `cache`."""
        if self.config.head != "lm":
            raise RequestError("this T5 is an encoder alone: use model.encode")
        memory = seen = None
        if cache is None:
            if source is None:
                raise RequestError("a T5 writes after reading a source, so it can neither score nor embed a text "
                                   "alone; use generate, whose prompt is the source")
            memory = self.encode(source, source_segments)
            if source_segments is not None:
                mine = torch.zeros_like(tokens[:, :1]) if segments is None else segments
                seen = mine[:, :, None] == source_segments[:, None, :]
        x = self.decoder(self.embed(tokens), segments, memory, seen, positions, cache)
        return x * self.config.dim**-0.5 if self.config.tied else x

    def forward(self, tokens: Int[Tensor, "B T"], source: Int[Tensor, "B S"] | None = None,
                source_segments: Int[Tensor, "B S"] | None = None, positions: Int[Tensor, "B T"] | None = None,
                cache: list[LayerCache] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the compute type; positions only matter with a cache (distances are all T5 knows)."""
        x = self.features(tokens, source, source_segments, positions, cache, segments)
        return self.head(x)

    def caches(self, memory: Float[Tensor, "B S D"], length: int,
               source_segments: Int[Tensor, "B S"] | None = None) -> list[LayerCache]:
        """Buffers for at most `length` target tokens, and each layer's keys of the encoder's output, computed once.

        With `source_segments`, the places of number 0 are seen (padding has another).
        """
        c, dtype = self.config, self.embed.compute or self.embed.weight.dtype
        real = torch.ones(memory.shape[:2], dtype=torch.bool) if source_segments is None else source_segments == 0
        crosses = (block.get_submodule("cross") for block in self.decoder.blocks)
        return [LayerCache(Cache(len(memory), c.heads, length, c.head_dim, dtype), cross.keys(memory), real[:, None])
                for cross in crosses if isinstance(cross, CrossAttention)]


def _v11(**shape: int) -> Config:
    return Config(**shape, feed_forward="gated-gelu", tied=False)              # type: ignore[arg-type]


SIZES = {                                                       # section 3.7 and table 14; v1.1: the authors' README
    "t5-small": Config(),
    "t5-base": Config(dim=768, layers=12, heads=12, hidden=3072),
    "t5-large": Config(dim=1024, layers=24, heads=16, hidden=4096),
    "t5-3b": Config(dim=1024, layers=24, heads=32, head_dim=128, hidden=16384),
    "t5-11b": Config(dim=1024, layers=24, heads=128, head_dim=128, hidden=65536),
    "t5-v1.1-small": _v11(layers=8, heads=6, hidden=1024),
    "t5-v1.1-base": _v11(dim=768, layers=12, heads=12, hidden=2048),
    "t5-v1.1-large": _v11(dim=1024, layers=24, heads=16, hidden=2816),
    "t5-v1.1-xl": _v11(dim=2048, layers=24, heads=32, hidden=5120),
    "t5-v1.1-xxl": _v11(dim=4096, layers=24, heads=64, hidden=10240),
}


def _map(gated: bool) -> NameMap:
    """Their names; a block is a list of two or three layers there, and v1.1 calls the MLP's matrices otherwise."""
    rows = [("embed.weight", "shared.weight"), ("head.weight", "lm_head.weight")]
    mlp = (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")) if gated else (("up", "wi"), ("down", "wo"))
    for stack, last in (("encoder", 1), ("decoder", 2)):
        ours, theirs = f"{stack}.blocks.{{i}}", f"{stack}.block.{{i}}.layer"
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows += [(f"{stack}.bias.table.weight", bias),
                 (f"{ours}.norm1.weight", f"{theirs}.0.layer_norm.weight"),
                 *((f"{ours}.attn.{x}.weight", f"{theirs}.0.SelfAttention.{x}.weight") for x in "qkvo"),
                 (f"{ours}.norm2.weight", f"{theirs}.1.layer_norm.weight"),
                 *((f"{ours}.cross.{x}.weight", f"{theirs}.1.EncDecAttention.{x}.weight") for x in "qkvo"),
                 (f"{ours}.norm3.weight", f"{theirs}.{last}.layer_norm.weight"),
                 *((f"{ours}.mlp.{x}.weight", f"{theirs}.{last}.DenseReluDense.{y}.weight") for x, y in mlp),
                 (f"{stack}.norm.weight", f"{stack}.final_layer_norm.weight")]
    return NameMap(*rows, ignore=(
        "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",          # the shared table once more
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"))     # in the first files, never used


class _Fields(FieldMap):
    """transformers 5 writes tie_word_embeddings = true into every T5's config; scale_decoder_outputs tells then."""

    def restore(self, tree: Mapping[str, Any], source: str = "config.json") -> dict[str, Any]:
        """config.json -> our config's fields."""
        derived = ("dense_act_fn", "is_gated_act", "is_encoder_decoder", "initializer_factor", "output_past",
                   "scale_decoder_outputs")
        plain = {key: value for key, value in tree.items() if key not in derived}
        if tree.get("scale_decoder_outputs") is not None:
            plain["tie_word_embeddings"] = tree["scale_decoder_outputs"]
        return super().restore(plain, source)


HF = NameMaps(lambda config: _map(config.feed_forward in GATES))

HF_CONFIG = _Fields(
    Kind("T5ForConditionalGeneration", "t5", {"head": "lm"}),
    Kind("T5WithLMHeadModel", "t5", {"head": "lm"}),                    # what the first checkpoints call it; read only
    Kind("T5EncoderModel", "t5", {"head": "none"}),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "n_positions", 512),
        ("dim", "d_model"),
        ("layers", "num_layers"),
        ("decoder_layers", "num_decoder_layers", 0),
        ("heads", "num_heads"),
        ("head_dim", "d_kv"),
        ("hidden", "d_ff"),
        ("feed_forward", "feed_forward_proj", "relu"),
        ("buckets", "relative_attention_num_buckets", 32),
        ("furthest", "relative_attention_max_distance", 128),
        ("eps", "layer_norm_epsilon", 1e-6),
        ("dropout", "dropout_rate", 0.1),
        ("tied", "tie_word_embeddings", True),
        ("start", "decoder_start_token_id", 0),
    ),
    fixed={},
)
