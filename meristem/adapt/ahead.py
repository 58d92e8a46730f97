"""What prefix and prompt tuning share: a decoder that always finds `length` learned places before its tokens.

`Ahead(module, length)` stands where the decoder stood (generation, scoring and training call the same methods): tokens
keep their own numbers outside and are `length` further inside, and a cache begins with the learned places in it.
"""
import abc
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.nn.attention import Attention, two_way


class Ahead(nn.Module, abc.ABC):
    """The decoder `base` behind `length` places; a subclass fills them."""

    def __init__(self, module: nn.Module, length: int):
        super().__init__()
        decoder = callable(features := getattr(module, "features", None)) and not two_way(module)
        takes = inspect.signature(features).parameters if decoder and features else {}
        if "positions" not in takes or "source" in takes:
            raise RequestError("what stands before a text needs a decoder of text; adapt this model with lora, ia3, "
                               "bottleneck or gated_prefix")
        config: Any = module.config
        if not 0 <= length < config.context:
            raise RequestError(f"length is {length}; it must be at least 0 and below the context of {config.context}")
        self.base: Any = module.requires_grad_(False)
        self.length = length
        self.config: Any = dataclasses.replace(config, context=config.context - length)

    @property
    def head(self) -> nn.Module:
        """The base's head."""
        return self.base.head

    def places(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None) -> Int[Tensor, "B T"]:
        """Where tokens stand inside; RequestError beyond the context."""
        if tokens.shape[1] > self.config.context:
            raise RequestError(f"{tokens.shape[1]} tokens exceed the {self.config.context} that the context leaves; "
                               "shorten the text")
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return positions + self.length

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Any] | None = None, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The base's features of the tokens."""
        return self.base.features(tokens, self.places(tokens, positions), cache, segments)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Any] | None = None, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits of the tokens."""
        return self.base.head(self.features(tokens, positions, cache, segments))

    def caches(self, batch: int, length: int) -> list[Any]:
        """Buffers of the base that begin with the learned places."""
        made = self.base.caches(batch, length + self.length)
        with torch.no_grad():
            self.begin(made, batch)
        return made

    @abc.abstractmethod
    def begin(self, cache: list[Any], batch: int) -> None:
        """Write what stands first into an empty cache."""


def words(module: nn.Module, length: int, text: str, seed: int, codec: Codec | None) -> Int[Tensor, "P"]:
    """Ids of `text`, repeated or cut to `length`; without a text, ids drawn from the vocabulary."""
    if not text:
        config: Any = module.config
        return torch.randint(config.vocab, (length,), generator=torch.Generator().manual_seed(seed_of(seed, "words")))
    if codec is None:
        raise RequestError("a text to begin with needs the model's tokenizer")
    ids: list[int] = np.asarray(codec.encode(text)).tolist()
    return torch.tensor((ids * (length // max(1, len(ids)) + 1))[:length], dtype=torch.long)


def length_of(config: Mapping[str, Any]) -> int:
    """How many places an adapter's file has; RequestError for one that is not before a single decoder."""
    length = config.get("num_virtual_tokens")
    if not isinstance(length, int) or config.get("num_transformer_submodules", 1) not in (1, None):
        raise RequestError(f"num_virtual_tokens = {length!r} is not a number of places before one decoder")
    return length


def attentions(module: nn.Module) -> list[Attention]:
    """The self-attention of every layer, in order."""
    return [m for m in module.modules() if isinstance(m, Attention)]
