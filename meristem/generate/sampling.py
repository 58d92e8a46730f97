"""How the next token is chosen: all settings in one `Sampling`, each step a small pure function of logits.

    pick(processed logits, numbers in [0, 1), Sampling(temperature=0.8, top_p=0.95))

Top-k (Fan et al. 2018, https://arxiv.org/abs/1805.04833), nucleus or top-p (Holtzman et al. 2020,
https://arxiv.org/abs/1904.09751 section 3.1), min-p (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082),
repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858 section 4.1), frequency and presence
penalties (of the OpenAI interface), no repeated n-gram (Paulus et al. 2017, https://arxiv.org/abs/1705.04304
section 2.5). Order and meaning as in transformers: bias, penalties, n-grams, temperature, top-k, top-p, min-p.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meristem.core.errors import RequestError
from meristem.nn import kernel

BANNED = float("-inf")
MOST = 1e4                              # of a penalty or bias: far larger ones leave infinities and no token


@dataclass(frozen=True)
class Sampling:
    """Every setting of a generation; the defaults are greedy. RequestError names all that are outside their range."""

    length: int = 64                    # at most so many new tokens
    temperature: float = 0.0            # 0: always the likeliest
    top_k: int = 0                      # sample among the k likeliest; 0: all
    top_p: float = 1.0                  # sample among the fewest likeliest that hold this much probability
    min_p: float = 0.0                  # sample among those with this share of the likeliest one's probability
    repetition_penalty: float = 1.0     # divides the logits (multiplies negative ones) of tokens of prompt and output
    frequency_penalty: float = 0.0      # taken off a logit for each time its token was written
    presence_penalty: float = 0.0       # taken off a logit once when its token was written
    no_repeat_ngram: int = 0            # no run of so many tokens twice in prompt and output; 0: any
    logit_bias: Mapping[int, float] = field(default_factory=dict)      # token -> added to its logit; -inf bans it
    beams: int = 1                      # beam search of this width, with temperature 0
    length_penalty: float = 1.0         # a beam's score is its log-probability / tokens ** length_penalty
    seed: int = 0                       # equal seeds give equal tokens
    top_logprobs: int = 0               # also report the likeliest so many tokens of each place
    ahead: int = 0                      # speculative decoding: guess so many tokens at once, then verify them
    stop: tuple[str, ...] = ()          # texts that end the output; they are left out of it
    regex: str | None = None            # the whole output matches it
    schema: Mapping[str, Any] | None = None                             # the output is JSON of this JSON schema
    watermark: str = ""                 # a secret word: tokens of its choice become likelier (generate.watermark)
    lark: str | None = None             # the whole output is a text of this grammar, as llguidance reads Lark's form
    whole: bool = False                 # what the three above demand is brought to its end within `length`

    def __post_init__(self) -> None:
        limits = {
            "length": (self.length >= 1, ">= 1"), "temperature": (0 <= self.temperature < math.inf, ">= 0 and finite"),
            "top_k": (self.top_k >= 0, ">= 0"), "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1]"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),   # 5e-324: no logit
            "frequency_penalty": (abs(self.frequency_penalty) <= MOST, f"from {-MOST:g} to {MOST:g}"),
            "presence_penalty": (abs(self.presence_penalty) <= MOST, f"from {-MOST:g} to {MOST:g}"),
            "no_repeat_ngram": (self.no_repeat_ngram >= 0, ">= 0"), "beams": (self.beams >= 1, ">= 1"),
            "length_penalty": (math.isfinite(self.length_penalty), "finite"),
            "top_logprobs": (self.top_logprobs >= 0, ">= 0"), "ahead": (self.ahead >= 0, ">= 0")}
        wrong = [f"{name} {getattr(self, name)} must be {rule}" for name, (good, rule) in limits.items() if not good]
        if any(not value <= MOST for value in self.logit_bias.values()):
            wrong.append(f"logit_bias must be numbers up to {MOST:g}")
        if not all(self.stop):
            wrong.append("stop must not hold an empty text")
        if self.beams > 1 and self.temperature > 0:
            wrong.append(f"beams {self.beams} looks for the likeliest text: set temperature 0")
        if self.beams > 1 and self.ahead:
            wrong.append("beams and ahead exclude each other")
        if sum(rule is not None for rule in (self.regex, self.schema, self.lark)) > 1:
            wrong.append("regex, schema and lark exclude each other")
        if self.whole and self.beams > 1:
            wrong.append("whole and beams exclude each other")
        if wrong:
            raise RequestError("; ".join(wrong))

    @property
    def demands(self) -> str:
        """What the whole output must satisfy, in words; "" for nothing."""
        return ("regular expression" if self.regex is not None else "schema" if self.schema is not None
                else "grammar" if self.lark is not None else "")

    @property
    def penalised(self) -> bool:
        """Whether logits depend on what was already read and written, or on a bias."""
        return bool(self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
                    or self.no_repeat_ngram or self.logit_bias)


def truncated(logits: Float[Tensor, "*B V"], sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Probabilities (float64, unnormalised, 0 where cut off) and the token of each place (None: in order).

    First the `top_k` likeliest, of these the fewest that together reach `top_p`, of these those with `min_p` of the
    first one's probability, all at `temperature`.
    """
    order, mass = None, None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, order = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, order, mass = _nucleus(logits, sampling)
    logits = logits.double()
    powers = ((logits - logits.amax(-1, keepdim=True)) / sampling.temperature).exp()       # no overflow, however cold
    probs = powers / (powers.sum(-1, keepdim=True) if mass is None else mass)
    if sampling.top_p < 1:                                     # the first token to reach top_p stays
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        probs = probs.masked_fill(probs < sampling.min_p * probs.amax(-1, keepdim=True), 0.0)
    return probs, order


def _nucleus(logits: Float[Tensor, "*B V"], sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that can be among the likeliest `top_p`, sorted, their tokens, and the sum of exp over all tokens [*B, 1].

    Tokens below (1 - top_p) / 2V hold less than half of 1 - top_p together, so those above hold the nucleus: some
    hundreds where the model is sure. A sort of all 32,000 costs 2 ms, more than a small network. -inf pads the rows.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    powers = flat.double()
    powers = ((powers - powers.amax(-1, keepdim=True)) / sampling.temperature).exp()
    mass = powers.sum(-1, keepdim=True)
    chosen = powers >= mass * ((1 - sampling.top_p) / 2 / flat.shape[-1])
    counts = chosen.sum(-1)
    real = torch.arange(int(counts.max())) < counts[:, None]
    order = torch.zeros(real.shape, dtype=torch.long)
    order[real] = chosen.nonzero()[:, 1]
    some = flat.gather(-1, order).masked_fill(~real, BANNED)
    some, index = some.sort(descending=True, stable=True)
    shape = logits.shape[:-1]
    return some.view(*shape, -1), order.gather(-1, index).view(*shape, -1), mass.view(*shape, 1)


def pick(logits: Float[Tensor, "B V"], at: np.ndarray, sampling: Sampling) -> Int[Tensor, "B"]:
    """One token a row: the one in whose share of the truncated distribution the number `at` [B] in [0, 1) falls."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    whole = not 0 < sampling.top_k < logits.shape[-1] and sampling.top_p == 1 and sampling.min_p == 0
    quick = kernel.draw(logits, torch.from_numpy(at), sampling.temperature) if whole else None
    if quick is not None and not bool((unsure := quick < 0).any()):
        return quick
    if quick is not None:                                      # so near an edge that float64 must tell
        quick[unsure] = inverse(truncated(logits[unsure], sampling)[0], at[unsure.numpy()])
        return quick
    probs, order = truncated(logits, sampling)
    chosen = inverse(probs, at)
    return chosen if order is None else order.gather(1, chosen[:, None])[:, 0]


def inverse(probs: Float[Tensor, "B V"], at: np.ndarray) -> Int[Tensor, "B"]:
    """The place in each row's (unnormalised) cumulative distribution where `at` [B] in [0, 1) of its total falls."""
    edges = probs.cumsum(-1)
    aim = torch.from_numpy(at)[:, None] * edges[:, -1:]        # at <= 1 - 2^-53: rounds to less than the last edge
    return torch.searchsorted(edges, aim, right=True)[:, 0]


def distribution(logits: Float[Tensor, "*B V"], sampling: Sampling) -> Float[Tensor, "*B V"]:
    """The probabilities that `pick` draws from, by token, float64, summing to 1; `temperature` must not be 0."""
    probs, order = truncated(logits, sampling)
    probs = probs / probs.sum(-1, keepdim=True)
    return probs if order is None else torch.zeros_like(logits, dtype=probs.dtype).scatter_add(-1, order, probs)


def penalise_repetition(logits: Float[Tensor, "*B V"], seen: Bool[Tensor, "*B V"],
                        penalty: float) -> Float[Tensor, "*B V"]:
    """Positive logits of `seen` tokens divided, negative ones multiplied by `penalty`."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalise_counts(logits: Float[Tensor, "*B V"], counts: Int[Tensor, "*B V"], frequency: float,
                    presence: float) -> Float[Tensor, "*B V"]:
    """logits - counts * frequency - (counts > 0) * presence."""
    return logits - counts * frequency - (counts > 0) * presence


def ban_repeats(logits: Float[Tensor, "V"], ids: Sequence[int], size: int) -> Float[Tensor, "V"]:
    """-inf for every token that would complete a run of `size` tokens which `ids` already holds."""
    if len(ids) < size:
        return logits
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), size)
    same = (windows[:, :-1] == np.asarray(ids[len(ids) - size + 1:])).all(-1)
    return logits.index_fill(0, torch.from_numpy(windows[same, -1].astype(np.int64)), BANNED)


def add_bias(logits: Float[Tensor, "*B V"], bias: Mapping[int, float]) -> Float[Tensor, "*B V"]:
    """Logits plus each token's bias."""
    out = logits.clone()
    out[..., list(bias)] += torch.tensor(list(bias.values()), dtype=logits.dtype)
    return out


class Penalties:
    """What a row has read and written so far, and its logits' bias and penalties for it; see `base.Control`."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab: int):
        if any(not 0 <= token < vocab for token in sampling.logit_bias):
            raise RequestError(f"logit_bias names a token outside the model's vocabulary of {vocab}")
        self.sampling, self.ids = sampling, list(prompt)
        self.counts = torch.zeros(vocab, dtype=torch.int32)    # of what was written
        self.seen = torch.zeros(vocab, dtype=torch.bool)       # read or written
        self.seen[self.ids] = True

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """The logits of the next token, biased and penalised."""
        s = self.sampling
        if s.logit_bias:
            logits = add_bias(logits, s.logit_bias)
        if s.repetition_penalty != 1:
            logits = penalise_repetition(logits, self.seen, s.repetition_penalty)
        if s.frequency_penalty or s.presence_penalty:
            logits = penalise_counts(logits, self.counts, s.frequency_penalty, s.presence_penalty)
        return ban_repeats(logits, self.ids, s.no_repeat_ngram) if s.no_repeat_ngram else logits

    def push(self, token: int) -> None:
        """This token was written."""
        self.ids.append(token)
        self.counts[token] += 1
        self.seen[token] = True

    def copy(self) -> "Penalties":
        """The same history, going its own way from here."""
        other = object.__new__(Penalties)
        other.sampling, other.ids = self.sampling, list(self.ids)
        other.counts, other.seen = self.counts.clone(), self.seen.clone()
        return other
