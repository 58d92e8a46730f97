"""Answers of an encoder-decoder: text in, text out, by the same loop as every other model (`generate.autoregressive`).

    answers(model.module, codec, ["translate roman to decimal: XLII"], length=8)           # ["42"]

Greedy unless `sampling` says otherwise. Sources of like length are read together, each with its end token, as in
training; an answer ends at the codec's end token.
"""
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling

ROWS = 64                               # sources read at once


@runtime_checkable
class EncoderDecoder(Protocol):
    """A model that reads a source once and writes after it."""

    def encode(self, source: Tensor, source_segments: Tensor | None = None) -> Tensor:
        """Source ids [B, S] -> the encoder's output [B, S, D]."""
        ...


def answers(module: nn.Module, codec: Codec, sources: Sequence[str], sampling: Sampling | None = None, *,
            length: int = 64) -> list[str]:
    """What the model writes after each source, in order; RequestError when a source exceeds the model's context."""
    config: Any = module.config
    if not isinstance(module, EncoderDecoder):
        raise RequestError("this model has no encoder, so it cannot read a source apart; use generate")
    sampling = sampling or Sampling(length=length)
    rows = [np.append(ids, codec.end) for ids in codec.encode_batch(list(sources))]
    longest = max(map(len, rows), default=0)
    if longest > config.context:
        raise RequestError(f"a source of {longest} tokens exceeds the model's context of {config.context}; shorten it")
    out, order = [""] * len(rows), sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for begin in range(0, len(order), ROWS):
        some = order[begin: begin + ROWS]
        made = generate(module, [np.array([config.start])] * len(some), sampling, stop={codec.end},
                        source=[rows[i] for i in some])
        for i, one in zip(some, made, strict=True):
            out[i] = codec.decode(one.tokens)
    return out
