"""fastText: the mean of word and bigram vectors, and a linear layer; the classifier that sorts corpora.

Joulin et al. 2016, https://arxiv.org/abs/1607.01759, section 2: a bigram's vector is a row of a hashed table. GPT-3's
and CCNet's quality filters and DCLM's (Li et al. 2024, https://arxiv.org/abs/2406.11794, section 4.4) are of this kind.
Trained with objective `classify` on labelled rows, so its classes are the row's labels:

    meristem pretrain quality data.corpus=ROWS.jsonl --out runs/quality
    meristem curate crawl.warc.gz --stages "quality:run=runs/quality,keep=good" --out runs/web

`corpus/linear.py` reads what is saved here with numpy alone. config.json names FasttextForSequenceClassification, which
the other library does not have.
"""
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.linear import Embedding, Linear

ODD = 1_000_003                         # a bigram's row is (first * ODD + second) modulo the number of rows


@dataclass(frozen=True)
class Config:
    """Its shape. `buckets`: rows for bigrams; `context` only bounds what is trained on."""

    vocab: int = 8192
    context: int = 256
    dim: int = 16
    buckets: int = 1 << 16
    head: Literal["sequence"] = "sequence"
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")


class Model(nn.Module):
    """Token ids -> logits of the classes of a text."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.words = Embedding(c.vocab, c.dim)
        self.bigrams = Embedding(c.buckets, c.dim)
        self.head = Linear(c.dim, len(c.labels))
        for table in (self.words, self.bigrams):
            nn.init.uniform_(table.weight, -1 / c.dim, 1 / c.dim)
        nn.init.zeros_(self.head.weight)                       # all classes alike at first, as in the original
        nn.init.zeros_(self.head.bias)

    def features(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None,
                 types: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B D"]:
        """The mean vector of the tokens and of each two that follow one another, padding (segments 1) left out."""
        real = torch.ones_like(tokens) if segments is None else 1 - segments
        pairs = (tokens[:, :-1] * ODD + tokens[:, 1:]) % self.config.buckets
        both = (real[:, :-1] * real[:, 1:])[..., None]
        total = (self.words(tokens) * real[..., None]).sum(1) + (self.bigrams(pairs) * both).sum(1)
        return total / (real.sum(1, keepdim=True) + both.sum(1)).clamp(min=1)

    def forward(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None,
                types: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B L"]:
        """Logits [B, labels]."""
        return self.head(self.features(tokens, segments, types))


SIZES = {
    "fasttext-bigrams": Config(dim=10, buckets=10_000_000),    # section 3.1: 10 hidden units, 10 M bins
}

HF = NameMap(
    ("words.weight", "words.weight"),
    ("bigrams.weight", "bigrams.weight"),
    ("head.weight", "classifier.weight"),
    ("head.bias", "classifier.bias"),
)

HF_CONFIG = FieldMap(
    Kind("FasttextForSequenceClassification", "meristem_fasttext", {"head": "sequence"}),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("buckets", "buckets"),
    ),
    fixed={}, labels="labels")
