"""Autoregressive decoding over a static key/value cache, for prompts of different lengths in one batch.

    generate(module, [codec.encode("def ")], length=64, temperature=0.8, top_p=0.95, seed=0, stop={codec.end})
    generate(module, prompts, Sampling(length=64, beams=4))

Prompts are padded on the right: the cache's slots are positions, a query sees slots up to its own, so padding is
overwritten before anything looks at it and no mask is needed. The random number of a token is a pure function of
(seed, row, position), so a row's text does not depend on what else is in the batch or when the others stop.
Settings are in `generate.sampling`; text instead of ids is in `generate.text`.
"""
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.core.random import seed_of, uniform
from meristem.generate import beam, speculative
from meristem.generate.base import (
    Control,
    Generation,
    Read,
    Source,
    check,
    controls_of,
    evaluating,
    judged,
    likeliest,
    prefill,
    steered,
)
from meristem.generate.sampling import Sampling, pick
from meristem.nn.decode import decoding


def generate(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling | None = None, *,
             length: int | None = None, temperature: float | None = None, top_k: int | None = None,
             top_p: float | None = None, seed: int | None = None, stop: Collection[int] = (),
             on_token: Callable[[int, int], bool | None] | None = None, draft: nn.Module | None = None,
             grammars: Sequence[Control] = (),
             ends: Callable[[int, list[int]], bool] | None = None,
             source: Sequence[np.ndarray] | Read | None = None, copies: int = 1,
             keys: np.ndarray | None = None) -> list[Generation]:
    """Up to `length` tokens after each prompt (ids), until a token of `stop`; the default is greedy.

    The common settings may be given by name, over those of `sampling`. `on_token(row, token)` is called as tokens
    appear and ends its row by returning True; `ends(row, tokens)` says whether a candidate of beam search, whose tokens
    appear only when all is done, is complete. `draft` guesses for `sampling.ahead`; without one, prompt look-up does.
    `grammars` holds one control a row. An encoder-decoder reads `source`, and its prompts begin its answers; of a model
    that sees or hears, `source` is what it is shown beside the prompts (`base.Shown`).
    `copies`: so many answers to each prompt, which is read once; they stand side by side. `keys` names each answer's
    random numbers (`core.random.uniform`; by default those of the seed and its row). Neither goes with beams or ahead.
    RequestError for an empty prompt, one that leaves no room in the model's context, or numbers outside their range.
    """
    given: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    sampling = replace(sampling or Sampling(), **{k: v for k, v in given.items() if v is not None})
    if sampling.stop or sampling.regex is not None or sampling.schema is not None:
        raise RequestError("stop texts and grammars need a tokenizer: call generate.text.complete")
    check(module, prompts, sampling)
    if (copies > 1 or keys is not None) and (sampling.beams > 1 or sampling.ahead or source or grammars):
        raise RequestError("copies and keys go with plain sampling: no beams, ahead, source or grammars")
    controls = controls_of(module, [prompt for prompt in prompts for _ in range(copies)], sampling, grammars)
    with evaluating(module), evaluating(draft or module), decoding(module), decoding(draft or module):
        read = source if isinstance(source, Read) else Source(module, source) if source else None
        if sampling.beams > 1:
            return beam.search(module, prompts, sampling, stop, on_token, controls, ends, read)
        if sampling.ahead:
            return speculative.decode(module, prompts, sampling, stop, on_token, controls, draft, read)
        return _decode(module, prompts, sampling, stop, on_token, controls, read, keys)


def _decode(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling, stop: Collection[int],
            on_token: Callable[[int, int], bool | None] | None, controls: list[list[Control]],
            source: Read | None, keys: np.ndarray | None) -> list[Generation]:
    out = [Generation() for _ in controls]
    if keys is None:
        keys = np.array([seed_of(sampling.seed, "row", row) for row in range(len(out))], dtype=np.uint64)
    rows = np.arange(len(out))                                 # which are still going
    at = torch.tensor([len(p) for p in prompts])               # the position of each row's next token
    cache, logits = prefill(module, prompts, sampling.length, source)
    if len(out) > len(prompts):
        whose = torch.arange(len(out)) // (len(out) // len(prompts))
        at, logits = at[whose], logits[whose]
        for layer in cache:
            layer.keep(whose)
    for place in range(sampling.length):
        total, best = judged(logits)
        allowed, dead = steered(logits, controls)
        plain = sampling.temperature == 0 and allowed is logits
        new = best if plain else pick(allowed, uniform(keys[rows], place), sampling)
        logp = logits.gather(1, new[:, None])[:, 0] - total
        top = likeliest(logits, total, sampling.top_logprobs) if sampling.top_logprobs else None
        going = []
        for i, (row, token, p) in enumerate(zip(rows.tolist(), new.tolist(), logp.tolist(), strict=True)):
            if token in stop or dead[i]:
                out[row].stopped = True
                continue
            out[row].tokens.append(token)
            out[row].logprobs.append(p)
            if top:
                out[row].top.append(top[i])
            for control in controls[i]:
                control.push(token)
            if on_token and on_token(row, token):
                out[row].stopped = True
                continue
            going.append(i)
        if place == sampling.length - 1 or not going:
            break
        if len(going) < len(rows):                             # finished rows leave the batch
            keep = torch.tensor(going)
            rows, at, new = rows[going], at[keep], new[keep]
            controls = [controls[i] for i in going]
            for layer in cache:
                layer.keep(keep)
        logits = module(new[:, None], positions=at[:, None], cache=cache)[:, 0].float()
        at = at + 1
    return out
