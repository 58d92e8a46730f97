"""Speculative decoding: guess several tokens cheaply, let the model judge them all in one pass, keep the good ones.

Leviathan, Kalman & Matias 2023, https://arxiv.org/abs/2211.17192 (algorithm 1): a guess x drawn from q is kept with
probability min(1, p(x) / q(x)), else the token is drawn from max(0, p - q), normalised; so the tokens are distributed
as the model's own, whoever guesses. Greedily, a guess is kept where it is the likeliest token, so the output is that of
plain greedy decoding (as far as one pass over several places rounds like passes over one).

    generate(module, prompts, Sampling(ahead=4))                      # guesses are looked up in prompt and output
    generate(module, prompts, Sampling(ahead=4, temperature=0.8), draft=small)            # a smaller model guesses

Rejected guesses leave numbers in the cache at places past the row's end; they are overwritten before any query sees
them, as padding is. Prompt look-up: Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.
"""
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.random import seed_of, uniform
from meristem.generate.base import (
    Control,
    Generation,
    Read,
    check,
    likeliest,
    normaliser,
    prefill,
    steered,
)
from meristem.generate.sampling import Sampling, distribution, inverse, pick

LONGEST_MATCH = 3                       # tokens: look-up tries a match of three, then of two, then of one


@runtime_checkable
class Guesser(Protocol):
    """Proposes how each row goes on."""

    def guess(self, texts: Sequence[list[int]], counts: Sequence[int], places: Sequence[int],
              keys: np.ndarray) -> tuple[list[list[int]], list[list[Tensor]] | None]:
        """At most `counts` tokens after each text, and the distributions [V] they were drawn from (None: certain)."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Go on with only these rows."""
        ...


class Lookup:
    """Guesses that the text goes on as it did after the last earlier occurrence of its last few tokens."""

    def guess(self, texts: Sequence[list[int]], counts: Sequence[int], places: Sequence[int],
              keys: np.ndarray) -> tuple[list[list[int]], list[list[Tensor]] | None]:
        """See `Guesser`; certain guesses."""
        return [look_up(text, count) for text, count in zip(texts, counts, strict=True)], None

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept between guesses."""


class Draft:
    """Guesses of a smaller model of the same vocabulary, drawn as the settings say; it has a cache of its own."""

    def __init__(self, module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling, vocab: int):
        config: Any = module.config
        if config.vocab != vocab:
            raise RequestError(f"the draft model has a vocabulary of {config.vocab} tokens, the model one of {vocab}; "
                               "it must have the same tokenizer")
        check(module, prompts, sampling)
        self.module, self.sampling = module, sampling
        self.cache, _ = prefill(module, prompts, sampling.length)

    def guess(self, texts: Sequence[list[int]], counts: Sequence[int], places: Sequence[int],
              keys: np.ndarray) -> tuple[list[list[int]], list[list[Tensor]] | None]:
        """See `Guesser`. The last two tokens are read first: the cache may lack both when every guess was kept."""
        out: list[list[int]] = [[] for _ in texts]
        shares: list[list[Tensor]] = [[] for _ in texts]
        greedy = self.sampling.temperature == 0
        tokens = torch.tensor([text[-2:] for text in texts])
        at = torch.tensor([[len(text) - 2, len(text) - 1] for text in texts])
        for step in range(max(counts)):
            logits = self.module(tokens, positions=at, cache=self.cache)[:, -1].float()
            q = logits if greedy else distribution(logits, self.sampling)
            numbers = np.array([uniform(keys[i:i + 1], place + step)[0] for i, place in enumerate(places)])
            new = logits.argmax(-1) if greedy else inverse(q, numbers)
            for i, token in enumerate(new.tolist()):
                if step < counts[i]:
                    out[i].append(token)
                    shares[i].append(q[i])
            last = torch.tensor([len(t) + c - 1 for t, c in zip(texts, counts, strict=True)])  # done rows wait there
            tokens, at = new[:, None], torch.minimum(at[:, -1] + 1, last)[:, None]
        return out, None if greedy else shares

    def keep(self, rows: list[int]) -> None:
        """Go on with only these rows."""
        for layer in self.cache:
            layer.keep(torch.tensor(rows))


def look_up(text: Sequence[int], count: int) -> list[int]:
    """The tokens, at most `count`, after the last earlier occurrence of the longest end of `text` that recurs."""
    ids = np.asarray(text)
    for size in range(min(LONGEST_MATCH, len(ids) - 1), 0, -1):
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        found = np.flatnonzero((windows == ids[-size:]).all(-1))
        if len(found):
            return ids[found[-1] + size:found[-1] + size + count].tolist()
    return []


def decode(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling, stop: Collection[int],
           on_token: Callable[[int, int], bool | None] | None, controls: list[list[Control]],
           draft: nn.Module | None, source: Read | None) -> list[Generation]:
    """As `autoregressive.generate`; each pass of the model judges up to `sampling.ahead` guesses a row."""
    config: Any = module.config
    if draft and source:
        raise RequestError("an encoder-decoder cannot be drafted for by a decoder; leave the draft out")
    guesser: Guesser = Draft(draft, prompts, sampling, config.vocab) if draft else Lookup()
    keys = np.array([seed_of(sampling.seed, "guess", row) for row in range(len(prompts))], dtype=np.uint64)
    out, texts = [Generation() for _ in prompts], [np.asarray(p).tolist() for p in prompts]
    cache, logits = prefill(module, prompts, sampling.length, source)
    judges = [_Judge(row, sampling, controls[row], out[row], stop, on_token) for row in range(len(prompts))]
    guesses, shares = [list[int]() for _ in judges], None
    logits = logits[:, None]
    while True:
        total = normaliser(logits)
        going = [i for i, judge in enumerate(judges)
                 if judge.decide(logits[i], total[i], guesses[i], shares[i] if shares else None)]
        judges = [judges[i] for i in going]
        if not judges:
            return out
        if len(going) < len(logits):
            for layer in cache:
                layer.keep(torch.tensor(going))
            guesser.keep(going)
        rows = [judge.number for judge in judges]
        now = [texts[row] + out[row].tokens for row in rows]
        places = [len(out[row].tokens) for row in rows]
        counts = [min(sampling.ahead, sampling.length - place - 1) for place in places]
        guesses, shares = guesser.guess(now, counts, places, keys[rows])
        width = 1 + max(map(len, guesses))
        tokens = torch.tensor([[text[-1], *guess] + [0] * (width - 1 - len(guess))
                               for text, guess in zip(now, guesses, strict=True)])
        # what pads a row is written where its last token would be read, which never happens
        last = torch.tensor([[len(texts[row]) + sampling.length - 1] for row in rows])
        at = torch.tensor([[len(text) - 1] for text in now]) + torch.arange(width)
        used = torch.tensor([[1 + len(guess)] for guess in guesses])
        logits = module(tokens, positions=torch.where(torch.arange(width) < used, at, last), cache=cache).float()


class _Judge:
    """Decides one row's next tokens, in order, from the model's logits at each guessed place."""

    def __init__(self, number: int, sampling: Sampling, controls: list[Control], made: Generation,
                 stop: Collection[int], on_token: Callable[[int, int], bool | None] | None):
        self.number, self.sampling, self.controls, self.made = number, sampling, controls, made
        self.stop, self.on_token = stop, on_token
        self.draw, self.accept = (np.array([seed_of(sampling.seed, name, number)], dtype=np.uint64)
                                  for name in ("row", "accept"))

    def decide(self, logits: Float[Tensor, "T V"], total: Float[Tensor, "T"], guesses: list[int],
               shares: list[Tensor] | None) -> bool:
        """Write the kept guesses and one token of the model's own; False when the row ends."""
        made = self.made
        for step, guess in enumerate([*guesses, None]):
            here = logits[step:step + 1]
            allowed, dead = steered(here, [self.controls])
            token = self._token(allowed, guess, shares[step] if shares and guess is not None else None)
            if token in self.stop or dead[0]:
                made.stopped = True
                return False
            made.tokens.append(token)
            made.logprobs.append(float(here[0, token] - total[step]))
            if self.sampling.top_logprobs:
                made.top += likeliest(here, total[step:step + 1], self.sampling.top_logprobs)
            for control in self.controls:
                control.push(token)
            if self.on_token and self.on_token(self.number, token):
                made.stopped = True
                return False
            if len(made.tokens) == self.sampling.length:
                return False
            if token != guess:
                break
        return True

    def _token(self, logits: Float[Tensor, "1 V"], guess: int | None, share: Tensor | None) -> int:
        """The guess where it is kept, else a token of the model's (residual) distribution."""
        place = len(self.made.tokens)
        number = uniform(self.draw, place)
        if guess is None or self.sampling.temperature == 0:
            return int(pick(logits, number, self.sampling))
        p = distribution(logits, self.sampling)[0]
        q = torch.zeros_like(p).index_fill(0, torch.tensor(guess), 1.0) if share is None else share
        if uniform(self.accept, place)[0] * float(q[guess]) < float(p[guess]):
            return guess
        rest = (p - q).clamp(min=0)
        return int(inverse(rest[None] if float(rest.sum()) > 0 else p[None], number))
