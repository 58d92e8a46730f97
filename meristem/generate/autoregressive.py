"""Autoregressive decoding over a static key/value cache: greedy, temperature, top-k and nucleus (Holtzman et al. 2020,
https://arxiv.org/abs/1904.09751 section 3.1), for prompts of different lengths in one batch.

    generate(module, [codec.encode("def ")], length=64, temperature=0.8, top_p=0.95, seed=0, stop={codec.end})

Prompts are padded on the right: the cache's slots are positions, a query sees slots up to its own, so padding is
overwritten before anything looks at it and no mask is needed. The random number of a token is a pure function of
(seed, row, position), so a row's text does not depend on what else is in the batch or when the others stop.
"""
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.errors import MachineError, RequestError
from meristem.core.random import seed_of, uniform


@dataclass
class Generation:
    """What was added to one prompt; `logprobs` are natural, under the model itself (temperature 1, no truncation)."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False                   # a stop token ended it; that token is not in `tokens`


@torch.no_grad()
def generate(module: nn.Module, prompts: Sequence[np.ndarray], *, length: int, temperature: float = 0.0, top_k: int = 0,
             top_p: float = 1.0, seed: int = 0, stop: Collection[int] = (),
             on_token: Callable[[int, int], None] | None = None) -> list[Generation]:
    """Up to `length` tokens after each prompt; temperature 0 is greedy, top_k 0 and top_p 1 keep everything.

    `on_token(row, token)` is called as tokens appear. RequestError for an empty prompt, a prompt that leaves no room in
    the model's context, or numbers outside their range.
    """
    _check(module, prompts, length, temperature, top_k, top_p)
    was_training = module.training
    module.eval()
    try:
        return _decode(module, prompts, length, stop, on_token, seed,
                       lambda logits, at: pick(logits, at, temperature, top_k, top_p))
    finally:
        module.train(was_training)


def _decode(module: nn.Module, prompts: Sequence[np.ndarray], length: int, stop: Collection[int],
            on_token: Callable[[int, int], None] | None, seed: int,
            choose: Callable[[Tensor, np.ndarray], Tensor]) -> list[Generation]:
    out = [Generation() for _ in prompts]
    keys = np.array([seed_of(seed, "row", row) for row in range(len(prompts))], dtype=np.uint64)
    rows = np.arange(len(prompts))                             # which prompts are still going
    at = torch.tensor([len(p) for p in prompts])               # the position of each row's next token
    longest = int(at.max())
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, :len(prompt)] = torch.as_tensor(np.asarray(prompt), dtype=torch.long)
    cache = module.caches(len(prompts), longest + length)      # type: ignore[operator]
    places = torch.arange(longest).expand(len(prompts), -1)
    features = module.features(tokens, places, cache)          # type: ignore[operator]
    logits = module.head(features[torch.arange(len(prompts)), at - 1]).float()         # type: ignore[operator]
    for place in range(length):
        total = logits.logsumexp(-1)
        if not bool(total.isfinite().all()):
            raise MachineError("the model's logits are not finite numbers; its weights are damaged or it diverged in "
                               "training: use an older checkpoint")
        new = choose(logits, uniform(keys[rows], place))
        logp = logits.gather(1, new[:, None])[:, 0] - total
        going = []
        for i, (row, token, p) in enumerate(zip(rows.tolist(), new.tolist(), logp.tolist(), strict=True)):
            if token in stop:
                out[row].stopped = True
                continue
            going.append(i)
            out[row].tokens.append(token)
            out[row].logprobs.append(p)
            if on_token:
                on_token(row, token)
        if place == length - 1 or not going:
            break
        if len(going) < len(rows):                             # finished rows leave the batch
            keep = torch.tensor(going)
            rows, at, new = rows[going], at[keep], new[keep]
            for layer in cache:
                layer.keep(keep)
        logits = module(new[:, None], at[:, None], cache)[:, 0].float()
        at = at + 1
    return out


def pick(logits: Float[Tensor, "B V"], at: np.ndarray, temperature: float, top_k: int,
         top_p: float) -> Int[Tensor, "B"]:
    """One token a row: the one in whose share of the (truncated) distribution the number `at` [B] in [0, 1) falls.

    Truncation as in transformers: first the `top_k` likeliest, then of these the fewest that together reach `top_p`.
    """
    if temperature == 0:
        return logits.argmax(-1)
    order = None
    if 0 < top_k < logits.shape[-1]:
        logits, order = logits.topk(top_k)
    elif top_p < 1:                                            # a sort costs 5 times the rest: only where it is needed
        logits, order = logits.sort(descending=True, stable=True)
    logits = logits.double()
    probs = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)      # no overflow at tiny temperature
    if top_p < 1:
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)      # the first token to reach top_p stays
    edges = probs.cumsum(-1)
    aim = torch.from_numpy(at)[:, None] * edges[:, -1:]        # at <= 1 - 2^-53: rounds to less than the last edge
    chosen = torch.searchsorted(edges, aim, right=True)
    return (chosen if order is None else order.gather(1, chosen))[:, 0]


def _check(module: nn.Module, prompts: Sequence[np.ndarray], length: int, temperature: float, top_k: int,
           top_p: float) -> None:
    config: Any = module.config
    if not prompts or any(len(p) == 0 for p in prompts):
        raise RequestError("there is nothing to go on from: each prompt needs at least one token")
    if length < 1 or not 0 <= temperature < float("inf") or top_k < 0 or not 0 < top_p <= 1:
        raise RequestError(f"length {length} must be >= 1, temperature {temperature} >= 0, top_k {top_k} >= 0 and "
                           f"top_p {top_p} in (0, 1]")
    if (longest := max(len(p) for p in prompts)) + length > config.context:
        raise RequestError(f"a prompt of {longest} tokens and {length} new ones exceed the model's context of "
                           f"{config.context}; shorten the prompt or ask for fewer tokens")
    if min(int(np.min(p)) for p in prompts) < 0 or max(int(np.max(p)) for p in prompts) >= config.vocab:
        raise RequestError(f"a prompt holds an id outside the model's vocabulary of {config.vocab} tokens; "
                           "encode it with the model's own tokenizer")
