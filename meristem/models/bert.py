"""BERT, RoBERTa and DistilBERT: two-way encoders with their heads.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805 (section 3, appendix A); Liu et al. 2019,
https://arxiv.org/abs/1907.11692 (positions start after the padding id, one token type); Sanh et al. 2019,
https://arxiv.org/abs/1910.01108 (half the layers, no token types, no pooler). `Config.kind` is which of the three,
`Config.head` what stands on top: "lm" predicts masked tokens with the embedding as its matrix, "pretraining" adds
whether sentence B follows A, "sequence", "token" and "qa" classify the text, each token, or each token as the start
and end of an answer. Train one with `meristem pretrain bert data.corpus=CORPUS`; in Python:

    model = Model(Config(vocab=8192, dim=256, layers=4, heads=4, head="lm")); model(tokens, segments, types)

Padding is a segment of its own: `segments` is 0 on text and 1 on padding (1 - attention_mask).
"""
import functools
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, FieldMaps, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import ACTIVATIONS, MLP
from meristem.nn.norm import LayerNorm

POOLED = ("none", "pretraining", "next_sentence", "sequence")       # heads that read the first token's vector
PREDICTS = ("lm", "pretraining")                                    # heads over the vocabulary
RELATES = ("pretraining", "next_sentence")                          # heads that judge pairs of sentences


@dataclass(frozen=True)
class Config:
    """An encoder's shape. `positions` counts the rows of the position table: `context` and, for RoBERTa, pad + 1 more.

    Of `context` and `positions` either may be 0, as may `hidden` (4 dim). `dropout` acts on the embeddings and on each
    layer's two outputs while training (the paper drops attention weights, too; that is left out).
    """

    kind: Literal["bert", "roberta", "distilbert"] = "bert"
    head: Literal["none", "lm", "pretraining", "next_sentence", "sequence", "token", "qa"] = "none"
    vocab: int = 30522
    context: int = 0
    positions: int = 0
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    types: int = -1                     # token types; -1: 2 for BERT, 1 for RoBERTa, 0 for DistilBERT
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    activation: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    eps: float = 1e-12
    pad: int = 0                        # the padding id: RoBERTa counts positions of the others, from pad + 1 on
    dropout: float = 0.1
    std: float = 0.02                   # of fresh matrices

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        before = self.pad + 1 if self.kind == "roberta" else 0
        set_(self, "context", self.context or (self.positions - before if self.positions else 512))
        set_(self, "positions", self.positions or self.context + before)
        set_(self, "hidden", self.hidden or 4 * self.dim)
        set_(self, "types", {"bert": 2, "roberta": 1, "distilbert": 0}[self.kind] if self.types < 0 else self.types)
        if self.positions != self.context + before:
            raise ValueError(f"positions ({self.positions}) must be context ({self.context}) + {before}")
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.head in RELATES and self.kind != "bert":
            raise ValueError(f"{self.kind} has no {self.head} head: it is not trained on pairs; take lm, or kind=bert")
        if self.kind == "distilbert" and self.types:
            raise ValueError("distilbert has no token types: leave out types")

    @property
    def pools(self) -> bool:
        """Whether a layer over the first token's vector exists."""
        return self.head in POOLED and (self.head, self.kind) != ("none", "distilbert")


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)): normalised after the sum, as in the first transformers."""

    def __init__(self, c: Config):
        super().__init__()
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.norm1 = LayerNorm(c.dim, c.eps)
        self.mlp = MLP(c.dim, c.hidden, c.activation)
        self.norm2 = LayerNorm(c.dim, c.eps)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "B T D"], segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = self.norm1(x + self.drop(self.attn(x, segments=segments)))
        return self.norm2(x + self.drop(self.mlp(x)))


class Transform(nn.Module):
    """norm(activation(W x + b)): what stands between the last layer and the vocabulary."""

    def __init__(self, c: Config):
        super().__init__()
        self.linear, self.norm = Linear(c.dim, c.dim), LayerNorm(c.dim, c.eps)
        self.activation = "gelu" if c.kind == "roberta" else c.activation

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        return self.norm(ACTIVATIONS[self.activation](self.linear(x)))


class Model(nn.Module):
    """Token ids -> what the head gives; `features` and `pool` are what stands below any head."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed, self.position = Embedding(c.vocab, c.dim), Embedding(c.positions, c.dim)
        self.token_type = Embedding(c.types, c.dim) if c.types else None
        self.norm, self.drop = LayerNorm(c.dim, c.eps), nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.pooler = Linear(c.dim, c.dim) if c.pools else None
        self.transform = Transform(c) if c.head in PREDICTS else None
        self.relation = Linear(c.dim, 2) if c.head in RELATES else None
        outputs = {"lm": c.vocab, "pretraining": c.vocab, "sequence": len(c.labels), "token": len(c.labels), "qa": 2}
        self.head = Linear(c.dim, outputs[c.head]) if c.head in outputs else None
        if self.head is not None and c.head in PREDICTS:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, std) cut at two deviations, biases 0, norms the identity (google-research/bert).

        0.02 suits a width of 768; a width of 128 that starts so attends to all places alike for hundreds of steps, so
        the recipes keep 0.02 sqrt(768 / dim), equal sums: 0.1 nats less after 500 steps (docs/log.md).
        """
        std = self.config.std
        for module in self.modules():
            if isinstance(module, Linear | Embedding):
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def features(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None,
                 types: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's output; `types` tells sentence A (0) from B (1)."""
        at = torch.arange(tokens.shape[1], device=tokens.device)
        if self.config.kind == "roberta":                      # fairseq's make_positions: padding is not counted
            real = (tokens != self.config.pad).long()
            at = real.cumsum(1) * real + self.config.pad
        x = self.embed(tokens) + self.position(at)
        if self.token_type is not None:
            x = x + (self.token_type.weight[0].to(x.dtype) if types is None else self.token_type(types))
        x = self.drop(self.norm(x))
        for block in self.blocks:
            x = block(x, segments)
        return x

    def pool(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """The pooler over the first token's vector: tanh(W x + b), in DistilBERT's classifier relu."""
        assert self.pooler is not None, f"the {self.config.head} head of {self.config.kind} has no pooler"
        x = self.pooler(features[:, 0])
        return torch.relu(x) if self.config.kind == "distilbert" else torch.tanh(x)

    def forward(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None,
                types: Int[Tensor, "B T"] | None = None,
                places: Int[Tensor, "B K"] | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """What the head gives: features [B, T, D] without one, lm logits [B, T, V], class logits [B, L] or [B, T, L].

        "qa" gives [B, T, 2], "next_sentence" [B, 2], "pretraining" both (lm, next sentence). With `places` the
        vocabulary is asked there only, [B, K, V]: at 15 % of the places that saves 85 % of the largest product.
        """
        features = self.features(tokens, segments, types)
        head = self.config.head
        if head == "none":
            return features
        if head in PREDICTS:
            assert self.transform is not None and self.head is not None
            there = features
            if places is not None:
                there = features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
            logits = self.head(self.transform(there))
            if self.relation is None:
                return logits
            return logits, self.relation(self.drop(self.pool(features)))
        if self.relation is not None:
            return self.relation(self.drop(self.pool(features)))
        assert self.head is not None
        return self.head(self.drop(self.pool(features) if head == "sequence" else features))


SIZES = {
    "bert-base": Config(),                                              # section 3: L=12, H=768, A=12
    "bert-large": Config(dim=1024, layers=24, heads=16),
    "roberta-base": Config(kind="roberta", vocab=50265, pad=1, eps=1e-5),               # fairseq examples/roberta
    "roberta-large": Config(kind="roberta", vocab=50265, pad=1, eps=1e-5, dim=1024, layers=24, heads=16),
    "distilbert-base": Config(kind="distilbert", layers=6),             # section 3
    "minilm-l6": Config(dim=384, layers=6),                             # Wang et al. 2020, arxiv.org/abs/2002.10957
}

EMBEDDINGS = (
    ("embed.weight", "embeddings.word_embeddings.weight"),
    ("position.weight", "embeddings.position_embeddings.weight"),
    ("token_type.weight", "embeddings.token_type_embeddings.weight"),
    ("norm.{x}", "embeddings.LayerNorm.{x}"),
)
LAYERS = (
    ("blocks.{i}.attn.q.{x}", "encoder.layer.{i}.attention.self.query.{x}"),
    ("blocks.{i}.attn.k.{x}", "encoder.layer.{i}.attention.self.key.{x}"),
    ("blocks.{i}.attn.v.{x}", "encoder.layer.{i}.attention.self.value.{x}"),
    ("blocks.{i}.attn.o.{x}", "encoder.layer.{i}.attention.output.dense.{x}"),
    ("blocks.{i}.norm1.{x}", "encoder.layer.{i}.attention.output.LayerNorm.{x}"),
    ("blocks.{i}.mlp.up.{x}", "encoder.layer.{i}.intermediate.dense.{x}"),
    ("blocks.{i}.mlp.down.{x}", "encoder.layer.{i}.output.dense.{x}"),
    ("blocks.{i}.norm2.{x}", "encoder.layer.{i}.output.LayerNorm.{x}"),
)
DISTIL_LAYERS = (
    ("blocks.{i}.attn.q.{x}", "transformer.layer.{i}.attention.q_lin.{x}"),
    ("blocks.{i}.attn.k.{x}", "transformer.layer.{i}.attention.k_lin.{x}"),
    ("blocks.{i}.attn.v.{x}", "transformer.layer.{i}.attention.v_lin.{x}"),
    ("blocks.{i}.attn.o.{x}", "transformer.layer.{i}.attention.out_lin.{x}"),
    ("blocks.{i}.norm1.{x}", "transformer.layer.{i}.sa_layer_norm.{x}"),
    ("blocks.{i}.mlp.up.{x}", "transformer.layer.{i}.ffn.lin1.{x}"),
    ("blocks.{i}.mlp.down.{x}", "transformer.layer.{i}.ffn.lin2.{x}"),
    ("blocks.{i}.norm2.{x}", "transformer.layer.{i}.output_layer_norm.{x}"),
)
LM = {                                                                  # the rows of the vocabulary head
    "bert": (("transform.linear.{x}", "cls.predictions.transform.dense.{x}"),
             ("transform.norm.{x}", "cls.predictions.transform.LayerNorm.{x}"),
             ("head.weight", "cls.predictions.decoder.weight"), ("head.bias", "cls.predictions.bias"),
             ("relation.{x}", "cls.seq_relationship.{x}")),
    "roberta": (("transform.linear.{x}", "lm_head.dense.{x}"), ("transform.norm.{x}", "lm_head.layer_norm.{x}"),
                ("head.weight", "lm_head.decoder.weight"), ("head.bias", "lm_head.bias")),
    "distilbert": (("transform.linear.{x}", "vocab_transform.{x}"), ("transform.norm.{x}", "vocab_layer_norm.{x}"),
                   ("head.{x}", "vocab_projector.{x}")),
}
POOLER = {("roberta", "sequence"): "classifier.dense", ("distilbert", "sequence"): "pre_classifier"}
CLASSIFIER = {("roberta", "sequence"): "classifier.out_proj"}
REPEATED = ("cls.predictions.decoder.bias", "lm_head.decoder.bias")     # the same numbers as the other bias


@functools.cache
def names(kind: str, head: str) -> NameMap:
    """The tensor names of one kind with one head: the body has a prefix as soon as there is a head."""
    prefix = "" if head == "none" else f"{kind}."
    body = EMBEDDINGS + (DISTIL_LAYERS if kind == "distilbert" else LAYERS)
    rows = [(ours, prefix + theirs) for ours, theirs in body]
    rows.append(("pooler.{x}", POOLER.get((kind, head), f"{prefix}pooler.dense") + ".{x}"))
    if head in PREDICTS + RELATES:
        rows += LM[kind]
    else:
        rows.append(("head.{x}", CLASSIFIER.get((kind, head), "qa_outputs" if head == "qa" else "classifier") + ".{x}"))
    ignore = [f"{prefix}embeddings.position_ids", *REPEATED]
    if head == "lm":                                           # the published ones keep what masked prediction lacks
        ignore += [f"{prefix}pooler.dense.{{x}}", "cls.seq_relationship.{x}"]
    return NameMap(*rows, ignore=tuple(ignore),
                   old=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")))


HF = NameMaps(lambda config: names(config.kind, config.head))

HEADS = {"none": "Model", "lm": "ForMaskedLM", "pretraining": "ForPreTraining",
         "next_sentence": "ForNextSentencePrediction", "sequence": "ForSequenceClassification",
         "token": "ForTokenClassification", "qa": "ForQuestionAnswering"}
SHARED = (("vocab", "vocab_size"), ("pad", "pad_token_id", 0), ("std", "initializer_range", 0.02))


def _kinds(kind: str, name: str) -> tuple[Kind, ...]:
    return tuple(Kind(name + word, kind, {"kind": kind, "head": head}, {"pad_token_id": 1} if kind == "roberta" else {})
                 for head, word in HEADS.items() if kind == "bert" or head not in RELATES)


HF_CONFIG = FieldMaps(
    FieldMap(
        *_kinds("bert", "Bert"), *_kinds("roberta", "Roberta"),
        rows=(
            *SHARED,
            ("positions", "max_position_embeddings"),
            ("dim", "hidden_size"),
            ("layers", "num_hidden_layers"),
            ("heads", "num_attention_heads"),
            ("hidden", "intermediate_size"),
            ("types", "type_vocab_size", 2),
            ("activation", "hidden_act", "gelu"),
            ("eps", "layer_norm_eps", 1e-12),
            ("dropout", "hidden_dropout_prob", 0.1),
        ),
        fixed={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
               "tie_word_embeddings": True},
        labels="labels"),
    FieldMap(
        *_kinds("distilbert", "DistilBert"),
        rows=(
            *SHARED,
            ("positions", "max_position_embeddings", 512),
            ("dim", "dim", 768),
            ("layers", "n_layers", 6),
            ("heads", "n_heads", 12),
            ("hidden", "hidden_dim", 3072),
            ("activation", "activation", "gelu"),
            ("dropout", "dropout", 0.1),
        ),
        fixed={"sinusoidal_pos_embds": False, "tie_weights_": True, "tie_word_embeddings": True, "is_decoder": False},
        labels="labels"))
