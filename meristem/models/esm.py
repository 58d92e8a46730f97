"""ESM-2: a two-way encoder of proteins, one token a residue, with heads for masked residues, residues and whole chains.

Lin et al. 2022, https://doi.org/10.1126/science.ade2574 (supplement A.1, table S1): norms before each branch and once
after the last, rotary positions, tied head. Masked residues are taken out of the input (their vectors are 0) and the
rest is scaled to what training saw, where 12 % were (fair-esm's `token_dropout`). Contacts are a logistic regression
over attention maps (Rao et al. 2021, https://openreview.net/forum?id=fylclEqgvgd, section 3). Train one with
`meristem pretrain esm data.corpus=CORPUS`; in Python:

    model = Model(SIZES["esm2-8m"])
    model(tokens, segments)                                    # logits [B, T, V]; segments: 0 residues, 1 padding
    model.contacts(tokens)                                     # [B, L, L] probabilities that two residues touch
"""
import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Group, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm

TRAINED = 1 - 0.15 * 0.8                # share of residues that pretraining shows


@dataclass(frozen=True)
class Config:
    """An encoder's shape; `hidden` 0 means 4 dim. `context` counts the marks before and behind a chain."""

    head: Literal["none", "lm", "token", "sequence"] = "lm"
    vocab: int = 33
    context: int = 1026
    dim: int = 320
    layers: int = 6
    heads: int = 20
    hidden: int = 0
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    scaled: bool = True                 # masked residues are taken out and the others scaled
    mask: int = 32                      # the id of a masked residue
    end: int = 2                        # of the mark behind a chain
    theta: float = 10_000.0
    eps: float = 1e-5
    std: float = 0.02                   # of fresh matrices

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}), and a head's size even")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.mlp = MLP(c.dim, c.hidden)

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 T F"],
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), rope, segments=segments)
        return x + self.mlp(self.norm2(x))

    def shares(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 T F"],
               same: Tensor) -> Float[Tensor, "B H T T"]:
        """How much each place attends to each other, where `same` [B, T, T] allows it."""
        q, k, _ = self.attn.project(self.norm1(x), rope, None)
        score = torch.einsum("bthk,bshk->bhts", q * self.attn.scale, k).float()
        return score.masked_fill(~same[:, None], float("-inf")).softmax(-1)


class Transform(nn.Module):
    """What stands before the vocabulary, norm(gelu(W x + b)), or before classes of chains, tanh(W x + b)."""

    def __init__(self, c: Config):
        super().__init__()
        self.linear = Linear(c.dim, c.dim)
        self.norm = LayerNorm(c.dim, c.eps) if c.head == "lm" else None

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        x = self.linear(x)
        return torch.tanh(x) if self.norm is None else self.norm(nn.functional.gelu(x))


class Model(nn.Module):
    """Residue ids -> what the head gives; `features` and `pool` are what stands below any head."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps)
        turns = torch.arange(0, c.dim // c.heads, 2, dtype=torch.float) / (c.dim // c.heads)
        self.register_buffer("frequency", 1.0 / c.theta**turns)        # saved: published ones are rounded to fp16
        self.contact = Linear(c.layers * c.heads, 1)
        self.pooler = Linear(c.dim, c.dim) if c.head == "none" else None
        self.transform = Transform(c) if c.head in ("lm", "sequence") else None
        outputs = {"lm": c.vocab, "token": len(c.labels), "sequence": len(c.labels)}
        self.head = Linear(c.dim, outputs[c.head]) if c.head in outputs else None
        if c.head == "lm" and self.head is not None:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, std), biases 0, norms the identity."""
        for module in self.modules():
            if isinstance(module, Linear | Embedding):
                nn.init.normal_(module.weight, std=self.config.std)
            if isinstance(module, Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def enter(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        """Vectors of the residues, masked ones 0, the others scaled to the share that training showed."""
        x = self.embed(tokens)
        if not self.config.scaled:
            return x
        masked = tokens == self.config.mask
        real = torch.ones_like(masked) if segments is None else segments == 0
        shown = 1 - masked.sum(1) / real.sum(1)
        return x.masked_fill(masked[..., None], 0.0) * (TRAINED / shown)[:, None, None].to(x.dtype)

    def rope(self, length: int) -> Float[Tensor, "2 T F"]:
        """cos and sin of every place's angles."""
        assert isinstance(self.frequency, Tensor)
        angle = torch.arange(length, device=self.frequency.device)[:, None].float() * self.frequency.float()
        angle = torch.cat([angle, angle], -1)
        return torch.stack([angle.cos(), angle.sin()])

    def features(self, tokens: Int[Tensor, "B T"],
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The normalised vectors of every place."""
        x, rope = self.enter(tokens, segments), self.rope(tokens.shape[1])
        for block in self.blocks:
            x = block(x, rope, segments)
        return self.norm(x)

    def pool(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """tanh(W x + b) of the first place."""
        assert self.pooler is not None, f"a model with head {self.config.head} has no pooler"
        return torch.tanh(self.pooler(features[:, 0]))

    def contacts(self, tokens: Int[Tensor, "B T"],
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B L L"]:
        """The probability that residues touch; the marks around a chain are cut off, L = T - 2."""
        x, rope = self.enter(tokens, segments), self.rope(tokens.shape[1])
        group = torch.zeros_like(tokens) if segments is None else segments
        same, maps = group[:, :, None] == group[:, None, :], []
        for block in self.blocks:
            assert isinstance(block, Block)
            maps.append(block.shares(x, rope, same))
            x = block(x, rope, segments)
        chain = (tokens != self.config.end) & (group == 0)
        both = (chain[:, :, None] & chain[:, None, :])[:, None]
        a = (torch.cat(maps, 1) * both)[..., 1:-1, 1:-1]                            # [B, layers * H, L, L]
        a = a + a.mT
        a = a - a.sum(-1, keepdim=True) * a.sum(-2, keepdim=True) / a.sum((-1, -2), keepdim=True)
        return torch.sigmoid(self.contact(a.movedim(1, -1))[..., 0])

    def forward(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None,
                types: Int[Tensor, "B T"] | None = None, places: Int[Tensor, "B K"] | None = None) -> Tensor:
        """Logits [B, T, V] ("lm"; with `places` there only, [B, K, V]), [B, T, L] ("token") or [B, L] ("sequence").

        `types`, which tell sentences of a pair apart, say nothing of a chain.
        """
        x = self.features(tokens, segments)
        if self.head is None:
            return x
        if places is not None:
            x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        if self.config.head == "sequence":
            x = x[:, 0]
        return self.head(x if self.transform is None else self.transform(x))


SIZES = {                                                       # table S1
    "esm2-8m": Config(),
    "esm2-35m": Config(dim=480, layers=12),
    "esm2-150m": Config(dim=640, layers=30),
    "esm2-650m": Config(dim=1280, layers=33),
    "esm2-3b": Config(dim=2560, layers=36, heads=40),
    "esm2-15b": Config(dim=5120, layers=48, heads=40),
}

LAYER = (("attn.q", "attention.self.query"), ("attn.k", "attention.self.key"), ("attn.v", "attention.self.value"),
         ("attn.o", "attention.output.dense"), ("norm1", "attention.LayerNorm"), ("norm2", "LayerNorm"),
         ("mlp.up", "intermediate.dense"), ("mlp.down", "output.dense"))


@functools.cache
def names(head: str) -> NameMap:
    """The tensor names with one head: the body has a prefix as soon as there is one."""
    body = "" if head == "none" else "esm."
    inside, turns = "attention.self.rotary_embeddings.inv_freq", "rotary_embeddings.inv_freq"
    heads = {"none": (("pooler.{x}", "pooler.dense.{x}"),), "token": (("head.{x}", "classifier.{x}"),),
             "sequence": (("transform.linear.{x}", "classifier.dense.{x}"), ("head.{x}", "classifier.out_proj.{x}")),
             "lm": (("transform.linear.{x}", "lm_head.dense.{x}"), ("transform.norm.{x}", "lm_head.layer_norm.{x}"),
                    ("head.weight", "lm_head.decoder.weight"), ("head.bias", "lm_head.bias"))}
    return NameMap(
        ("embed.weight", f"{body}embeddings.word_embeddings.weight"),
        ("norm.{x}", f"{body}encoder.emb_layer_norm_after.{{x}}"),
        ("frequency", f"{body}{turns}"),
        ("contact.{x}", f"{body}contact_head.regression.{{x}}"),
        *((f"blocks.{{i}}.{ours}.{{x}}", f"{body}encoder.layer.{{i}}.{theirs}.{{x}}") for ours, theirs in LAYER),
        *heads[head],
        ignore=(f"{body}embeddings.position_ids", f"{body}embeddings.position_embeddings.weight",      # never read
                f"{body}encoder.layer.{{i}}.{inside}"),
        # published files have the angles in every layer; transformers 5 writes a star there, and BERT's first names
        old=((f"encoder.layer.0.{inside}", turns), (f"encoder.layer.*.{inside}", turns),
             ("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")))


HF = NameMaps(lambda config: names(config.head))


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


HF_CONFIG = FieldMap(
    Kind("EsmForMaskedLM", "esm", {"head": "lm"}), Kind("EsmModel", "esm", {"head": "none"}),
    Kind("EsmForTokenClassification", "esm", {"head": "token"}),
    Kind("EsmForSequenceClassification", "esm", {"head": "sequence"}),
    rows=(("vocab", "vocab_size"), ("context", "max_position_embeddings", 1026), ("dim", "hidden_size"),
          ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"), ("hidden", "intermediate_size"),
          ("scaled", "token_dropout", False), ("mask", "mask_token_id"), ("end", "eos_token_id", 2),
          ("theta", "rope_theta", 10_000.0), ("eps", "layer_norm_eps", 1e-12), ("std", "initializer_range", 0.02)),
    fixed={"position_embedding_type": "rotary", "emb_layer_norm_before": False, "is_folding_model": False,
           "is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True, "hidden_act": "gelu",
           "pad_token_id": 1},
    write=("position_embedding_type", "emb_layer_norm_before", "pad_token_id"),
    labels="labels", groups=(Group(("vocab_list", "esmfold_config.*"), _nothing, _nothing),))
