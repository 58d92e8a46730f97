"""What the engine is asked to do: write texts (`Ask`), or call a function on the model (`Call`); and one text (`Row`).

The side that asks gives a `Job` a function `tell`, which hears `Piece`s, then one `Done` or `Failed`. `tell` is called
on the engine's thread and must return at once.
"""
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.generate.base import controls_of
from meristem.generate.constrain import Grammar
from meristem.generate.sampling import Sampling
from meristem.generate.text import Stream
from meristem.serve.settings import TooLong

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Token:
    """A written token: its natural log-probability under the model, and the likeliest ones there where asked for."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Piece:
    """What a text has become longer by; `reason` is set on its last piece."""

    index: int
    text: str
    tokens: Sequence[Token]
    reason: Reason | None = None


@dataclass(frozen=True)
class Done:
    """The job is finished; `value` is what a call returned, `facts` what the work was."""

    value: Any = None
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The job ended with this error."""

    error: Exception


@dataclass(eq=False)
class Job:
    """Something that waits for the engine; `client` is who is charged."""

    client: str = ""
    tell: Callable[[Piece | Done | Failed], None] = lambda event: None
    deadline: float = float("inf")      # time.monotonic() at which it is given up
    cancelled: bool = False             # set by the side that asked
    since: float = field(default_factory=time.monotonic)
    first: float = 0.0                  # when its first piece came


@dataclass(eq=False)
class Call(Job):
    """A function to call between two steps; it gets the module, with `adapter` in place."""

    work: Callable[[Any], Any] = lambda module: None
    cost: int = 1                       # tokens that it reads
    adapter: str = ""


@dataclass(eq=False)
class Ask(Job):
    """`copies` texts after a prompt. Copy i has the random numbers of `generate(..., copies=)` with the same seed."""

    prompt: Sequence[int] = ()
    sampling: Sampling = field(default_factory=Sampling)
    copies: int = 1
    ends: frozenset[int] = frozenset()  # tokens at which a text ends
    grammar: Grammar | None = None      # at its beginning
    adapter: str = ""
    rows: "list[Row]" = field(default_factory=list)            # those that are not finished
    cached: int = 0                     # tokens of the prompt that were there already
    written: int = 0


class Row:
    """One text of an `Ask`: its tokens, the pages that hold them, and what decides the next one."""

    def __init__(self, ask: Ask, index: int, codec: Codec, module: nn.Module):
        self.ask, self.index, self.sampling = ask, index, ask.sampling
        self.tokens, self.prompt = [int(token) for token in ask.prompt], len(ask.prompt)
        self.read = 0                                          # tokens whose keys and values lie in the pages
        self.guess: list[int] = []                             # what was guessed to follow, and is being checked
        self.pages: list[int] = []
        self.names: list[bytes] = []                           # of the full ones
        self.key = np.array([seed_of(ask.sampling.seed, "row", index)], dtype=np.uint64)
        self.stream = Stream(codec, self.tokens, ask.sampling.stop)
        self.grammar = ask.grammar.copy() if ask.grammar else None
        self.controls = controls_of(module, [np.array(self.tokens)], ask.sampling,
                                    [self.grammar] if self.grammar else [])[0]
        self.pending: list[Token] = []                         # written, not yet told
        self.told = 0
        self.adapter: Any = None                               # held while it runs

    @property
    def written(self) -> int:
        """How many tokens were added to the prompt."""
        return len(self.tokens) - self.prompt

    @property
    def reading(self) -> bool:
        """Whether more than the last token is still to be read."""
        return self.read < len(self.tokens) - 1 or not self.written

    def push(self, token: Token) -> str:
        """Add a token; the text that may be shown now."""
        self.tokens.append(token.id)
        self.pending.append(token)
        for control in self.controls:
            control.push(token.id)
        return self.stream.push(token.id)

    def take(self, last: bool) -> list[Token]:
        """The tokens of the text shown so far that were not told yet; at the end all that make the text."""
        stream = self.stream
        upto = stream.kept if last else bisect_left(stream.begins, stream.shown)        # they only grow
        some, self.pending = self.pending[:upto - self.told], self.pending[upto - self.told:]
        self.told = max(self.told, upto)
        return some


def check(ask: Ask, context: int, vocab: int) -> None:
    """RequestError for what can never be answered; `TooLong` for a prompt that leaves no room."""
    prompt = np.asarray(ask.prompt)
    if not len(prompt):
        raise RequestError("there is nothing to go on from: the prompt needs at least one token")
    if len(prompt) + ask.sampling.length > context:
        raise TooLong(f"a prompt of {len(prompt)} tokens and {ask.sampling.length} new ones exceed the model's "
                      f"context of {context}; shorten the prompt or ask for fewer tokens")
    if int(prompt.min()) < 0 or int(prompt.max()) >= vocab:
        raise RequestError(f"the prompt holds an id outside the model's vocabulary of {vocab} tokens")
    if any(not 0 <= token < vocab for token in ask.sampling.logit_bias):
        raise RequestError(f"logit_bias names a token outside the model's vocabulary of {vocab}")
