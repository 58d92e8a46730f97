"""Actions from a model that reads pictures and instructions: as many numbers as an action has, each a token.

    act = Actor(module, codec, dims=3)
    act(["go to the red circle"], [frame])                     # [array([ 1., -0.004, -1.])]

Only the tokens of numbers may be written (codecs.action), as RT-2 restricts its vocabulary while it acts
(https://arxiv.org/abs/2307.15818, section 3.2).
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.codecs.action import BINS, Bins
from meristem.codecs.base import Codec
from meristem.data.conversations import Reader
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import BANNED, Sampling
from meristem.generate.seeing import ask


class Numbers:
    """Steers one row (`generate.base.Control`): tokens of numbers only."""

    def __init__(self, first: int):
        self.first = first

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits of the next token; -inf where it must not stand."""
        out = torch.full_like(logits, BANNED)
        out[self.first:self.first + BINS] = logits[self.first:self.first + BINS]
        return out

    def push(self, token: int) -> None:
        """Nothing changes."""

    def copy(self) -> "Numbers":
        """It has no state."""
        return self


@dataclass(frozen=True)
class Actor:
    """A policy: the likeliest action of `dims` numbers; `earn` is the return that is asked for, if any."""

    module: nn.Module
    codec: Codec
    dims: int
    earn: float | None = None

    def __call__(self, instructions: Sequence[str], frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """An action for each instruction and frame (uint8 [C, H, W])."""
        told = {} if self.earn is None else {"return": self.earn}
        rows = [{"input": text, **told} for text in instructions]
        return self.of(rows, [[frame] for frame in frames])

    def of(self, rows: Sequence[dict], pictures: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """An action for each row of `data.interleaved` with its pictures."""
        bins = Bins.of(self.codec)
        prompts, shown = ask(self.module, Reader(self.codec), rows, pictures)
        made = generate(self.module, prompts, Sampling(length=self.dims, temperature=0.0),
                        source=shown if any(pictures) else None,
                        grammars=[Numbers(bins.first) for _ in prompts])
        return [bins.values(np.array(one.tokens)) for one in made]
