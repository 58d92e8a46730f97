"""LSTM language model: what came before the Transformer, as the honest comparator; regularised as AWD-LSTM.

Zaremba et al. 2014, https://arxiv.org/abs/1409.2329; Merity et al. 2017, https://arxiv.org/abs/1708.02182 (tied
embeddings, weight drop, locked dropout), which is the network of ULMFiT (Howard & Ruder 2018,
https://arxiv.org/abs/1801.06146). It has the interface of every decoder: model(tokens, positions, cache, segments).

`dropout` multiplies the rates of ULMFiT's section 4.1 (`RATES`); 1 is for small corpora that are read many times.
The other library has no such network: config.json names LstmLanguageModel, and tensors are called as in torch.nn.LSTM.
`meristem pretrain lstm data.corpus=CORPUS` trains one.
"""
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.linear import Embedding, Linear
from meristem.nn.recurrent import LSTM, States

RATES = {"words": 0.05, "input": 0.4, "between": 0.3, "output": 0.4, "recurrent": 0.5}


@dataclass(frozen=True)
class Config:
    """An LSTM's shape. Tied: the last layer is as wide as the embedding, and the head is the embedding."""

    vocab: int = 10_000
    context: int = 256                  # what we train on and generate; the state itself has no limit
    dim: int = 400
    hidden: int = 1150
    layers: int = 3
    tied: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 2:
            raise ValueError(f"dropout ({self.dropout}) multiplies rates of up to 0.5: it must be in [0, 2)")


class Model(nn.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        widths = [c.dim, *[c.hidden] * (c.layers - 1), c.dim if c.tied else c.hidden]
        self.embed = Embedding(c.vocab, c.dim)
        self.layers = nn.ModuleList(LSTM(a, b, c.dropout * RATES["recurrent"])
                                    for a, b in zip(widths, widths[1:], strict=False))
        self.head = Linear(widths[-1], c.vocab)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Uniform: embeddings +-0.1, matrices +-1/sqrt(hidden); biases 0, but 1 in the forget gate.

        The last: Jozefowicz et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html section 2.3.
        """
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        for layer in self.layers:
            assert isinstance(layer, LSTM)
            for linear in (layer.input, layer.recurrent):
                nn.init.uniform_(linear.weight, -layer.hidden**-0.5, layer.hidden**-0.5)
                nn.init.zeros_(linear.bias)
            nn.init.ones_(layer.input.bias[layer.hidden: 2 * layer.hidden])

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[States] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's output, before the head; `positions` only matter with a cache (`nn.recurrent`)."""
        x = self.embed(tokens)
        if self.training and self.config.dropout:
            words = F.dropout(torch.ones(self.config.vocab), self.config.dropout * RATES["words"])
            x = x * words.to(x.dtype)[tokens][..., None]       # a word is gone from the whole batch, or not
        x = self.locked(x, "input")
        for i, layer in enumerate(self.layers):
            x = layer(x, positions, cache[i] if cache else None, segments)
            x = self.locked(x, "output" if i == len(self.layers) - 1 else "between")
        return x

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[States] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the compute type."""
        return self.head(self.features(tokens, positions, cache, segments))

    def locked(self, x: Float[Tensor, "B T D"], where: str) -> Float[Tensor, "B T D"]:
        """Dropout with one mask for all steps of a row (Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287)."""
        return x * F.dropout(torch.ones_like(x[:, :1]), self.config.dropout * RATES[where], self.training)

    def caches(self, batch: int, length: int) -> list[States]:
        """Room for the states of `batch` rows after each of at most `length` positions, one a layer."""
        dtype = self.embed.compute or self.embed.weight.dtype
        return [States(batch, length, layer.hidden, dtype) for layer in self.layers]   # type: ignore[arg-type]


SIZES = {
    "lstm-medium": Config(dim=650, hidden=650, layers=2, tied=False),           # Zaremba et al. section 4.1: 20M
    "lstm-large": Config(dim=1500, hidden=1500, layers=2, tied=False),          # the same: 66M
    "awd-lstm-ptb": Config(),                                                   # Merity et al. table 1: 24M
    "awd-lstm-wt2": Config(vocab=33_278),                                       # Merity et al. table 2: 33M
}

HF = NameMap(
    ("embed.weight", "embedding.weight"),
    ("layers.{i}.input.weight", "lstm.{i}.weight_ih_l0"),
    ("layers.{i}.recurrent.weight", "lstm.{i}.weight_hh_l0"),
    ("layers.{i}.input.bias", "lstm.{i}.bias_ih_l0"),
    ("layers.{i}.recurrent.bias", "lstm.{i}.bias_hh_l0"),
    ("head.weight", "head.weight"),
    ("head.bias", "head.bias"),
)

HF_CONFIG = FieldMap(
    Kind("LstmLanguageModel", "meristem_lstm"),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "embedding_size"),
        ("hidden", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("tied", "tie_word_embeddings"),
        ("dropout", "dropout", 0.0),
    ),
    fixed={},
)
