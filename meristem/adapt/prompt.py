"""Prompt tuning: learned embeddings before the text, and nothing else is trained.

Lester et al. 2021, https://arxiv.org/abs/2104.08691. A recipe says `adapt.name=prompt adapt.length=16
adapt.text="Is this film good?"`. The prompt starts as the embeddings of `text`, or of words drawn from the vocabulary
(section 3.2): step 0 is the base exactly, as it goes on after these words, and a prompt of length 0 is the base itself.
Files are PEFT's, both ways: `prompt_embeddings` [length, width].
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.adapt import base
from meristem.adapt.ahead import Ahead, length_of, words
from meristem.adapt.base import Names
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.nn.linear import Embedding

TYPE = "PROMPT_TUNING"
KEY = "prompt_embeddings"


@dataclass(frozen=True)
class Config:
    """What `Part("prompt", {...})` may say."""

    length: int = 16                            # places
    text: str = ""                              # words to begin with


class Table(nn.Module):
    """The base's embedding, in which the ids -1, -2, ... are the places of the prompt."""

    def __init__(self, table: Embedding, length: int):
        super().__init__()
        self.base = table
        self.prompt = nn.Parameter(torch.zeros(length, table.embedding_dim, device=table.weight.device))

    @property
    def weight(self) -> Tensor:
        """The base's table."""
        return self.base.weight

    @property
    def compute(self) -> torch.dtype | None:
        """The type that numbers enter the network in."""
        return self.base.compute

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """ids -> vectors of the base's type."""
        x = self.base(ids.clamp(min=0))
        if not len(self.prompt):
            return x
        return torch.where(ids[..., None] < 0, self.prompt[(-1 - ids).clamp(min=0)].to(x.dtype), x)


class Prompted(Ahead):
    """A decoder behind a learned prompt."""

    def __init__(self, module: nn.Module, length: int):
        super().__init__(module, length)
        if not isinstance(module.embed, Embedding):
            raise RequestError("this model has a prompt already")
        module.embed = Table(module.embed, length)

    @property
    def prompt(self) -> nn.Parameter:
        """The learned embeddings [P, D]."""
        return self.base.embed.prompt

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Any] | None = None, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The base's features of the tokens, of a row that begins with the prompt."""
        if segments is not None:
            raise RequestError("a prompt stands before a row, not before each of its documents; set "
                               "data.packing=joined")
        if cache is not None:
            return super().features(tokens, positions, cache)
        at = self.places(tokens, positions)
        row = torch.cat([self.ids(len(tokens)), tokens], 1)
        first = torch.arange(self.length, device=at.device).expand(len(tokens), -1)
        return self.base.features(row, torch.cat([first, at], 1))[:, self.length:]

    def begin(self, cache: list[Any], batch: int) -> None:
        """Read the prompt into the cache."""
        if self.length:
            self.base.features(self.ids(batch), torch.arange(self.length).expand(batch, -1), cache)

    def ids(self, batch: int) -> Int[Tensor, "B P"]:
        """The ids of the prompt's places."""
        return (-1 - torch.arange(self.length, device=self.prompt.device)).expand(batch, -1)


def attach(module: nn.Module, config: Config, seed: int, codec: Codec | None = None) -> nn.Module:
    """The model behind a prompt that starts as the embeddings of words."""
    ids = words(module, config.length, config.text, seed, codec)
    made = Prompted(module, config.length)
    made.prompt.data.copy_(made.base.embed.base.weight[ids].detach())
    return made


def found(module: nn.Module) -> bool:
    """Whether the model has a learned prompt."""
    return isinstance(module, Prompted)


def merge(module: nn.Module) -> nn.Module:
    """Always a RequestError."""
    raise RequestError("a prompt is no weight of the model; keep the adapter beside its base")


def pack(module: nn.Module, names: Names) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """PEFT's keys and its one tensor."""
    assert isinstance(module, Prompted)
    config = {"num_virtual_tokens": module.length, "token_dim": module.prompt.shape[1],
              "num_transformer_submodules": 1, "prompt_tuning_init": "RANDOM"}
    return config, {KEY: module.prompt}, {}


def fill(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Names,
         note: Mapping[str, Any]) -> nn.Module:
    """The model behind the prompt of a file."""
    length = length_of(config)
    made = Prompted(module, length)
    made.prompt.data.copy_(base.tensor(tensors, KEY, tuple(made.prompt.shape), f"this model and {length} places"))
    return made
