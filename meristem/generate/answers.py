"""Log-probabilities of answers after prompts, as multiple-choice and cloze benchmarks ask for them.

    scored = answers(module, [(prompt, a), (prompt, b), ...])      # ids; scored[0].logprobs, scored[0].likeliest

What makes it fast: a prompt that several answers share is read once (the caches of its rows are repeated for them), the
head is applied to the answers' places only, and pairs of like length share a pass. Needs a family with a cache.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.generate.base import evaluating, padded
from meristem.generate.score import LOGITS

Pair = tuple[np.ndarray, np.ndarray]    # ids of a prompt and of an answer, neither empty
PASS_TOKENS = 2048                      # on two cores 1,024 to 2,048 are the fastest; 8,192 is up to 1.8 times slower
WORTH = 24                              # tokens that reading a prompt once must save; a second pass is not free


@dataclass(frozen=True)
class Answer:
    """Natural log p of each token of an answer (float32), and whether each was the likeliest one."""

    logprobs: np.ndarray
    likeliest: np.ndarray


@dataclass(frozen=True)
class _Group:
    """Pairs of one prompt: where they stand in the request."""

    prompt: np.ndarray
    answers: list[np.ndarray]
    places: list[int]

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return len(self.prompt) + max(map(len, self.answers)) - 1


def answers(module: nn.Module, pairs: Sequence[Pair], batch_tokens: int = PASS_TOKENS) -> list[Answer]:
    """Each answer after its prompt, in the order of `pairs`; a pass holds at most `batch_tokens`, padding included."""
    assert all(len(p) and len(a) for p, a in pairs), "no first token of a row can be predicted, no empty answer judged"
    found: dict[bytes, _Group] = {}
    for place, (prompt, answer) in enumerate(pairs):
        prompt, answer = (np.asarray(ids, dtype=np.int64) for ids in (prompt, answer))
        group = found.setdefault(prompt.tobytes(), _Group(prompt, [], []))
        group.answers.append(answer)
        group.places.append(place)
    shared = [g for g in found.values() if (len(g.answers) - 1) * len(g.prompt) >= WORTH]
    ids = {id(g) for g in shared}
    alone = [_Group(g.prompt, [a], [p]) for g in found.values() if id(g) not in ids
             for a, p in zip(g.answers, g.places, strict=True)]
    out: list[Answer | None] = [None] * len(pairs)
    with evaluating(module):
        for groups, read in ((alone, _alone), (shared, _shared)):
            for batch in _batches(groups, batch_tokens, read is _shared):
                places = [p for g in batch for p in g.places]
                for place, made in zip(places, read(module, batch), strict=True):
                    out[place] = made
    return [a for a in out if a is not None]


def _batches(groups: list[_Group], batch_tokens: int, shared: bool) -> list[list[_Group]]:
    """Groups of like length together, as many as either of their passes has room for."""
    out: list[list[_Group]] = []
    rows = tail = 0
    for group in sorted(groups, key=lambda g: (g.longest, len(g.prompt))):
        rows, tail = rows + len(group.answers), max(tail, group.longest - len(group.prompt))
        here = len(out[-1]) + 1 if out else 1
        size = max(here * group.longest, rows * tail) if shared else rows * group.longest
        if not out or size > batch_tokens:
            out.append([])
            rows, tail = len(group.answers), group.longest - len(group.prompt)
        out[-1].append(group)
    return out


def _alone(module: nn.Module, groups: list[_Group]) -> list[Answer]:
    """Prompts and answers as whole rows, in one pass."""
    rows = [np.concatenate([g.prompt, g.answers[0][:-1]]) for g in groups]
    tokens, real = padded(rows)
    first = torch.tensor([len(g.prompt) - 1 for g in groups])
    at = real & (torch.arange(tokens.shape[1]) >= first[:, None])
    features = module.features(tokens)[at]                     # type: ignore[operator]
    return _judged(module, features, [g.answers[0] for g in groups])


def _shared(module: nn.Module, groups: list[_Group]) -> list[Answer]:
    """Prompts in one pass, then all their answers in another, on repeated caches."""
    tokens, real = padded([g.prompt for g in groups])
    lengths = real.sum(1)
    every = [a for g in groups for a in g.answers]
    owner = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(g.answers) for g in groups]))
    cache: list[Any] = module.caches(len(groups), tokens.shape[1] + max(map(len, every)))      # type: ignore[operator]
    at = torch.arange(tokens.shape[1]).expand(len(groups), -1)
    features = module.features(tokens, positions=at, cache=cache)                              # type: ignore[operator]
    pieces = [features[torch.arange(len(groups)), lengths - 1][owner][:, None]]
    rest = [row for row, answer in enumerate(every) if len(answer) > 1]
    if rest:
        kept = owner[rest]
        for entry in cache:
            entry.keep(kept)
        tails, real = padded([every[row][:-1] for row in rest])
        at = lengths[kept][:, None] + torch.arange(tails.shape[1])
        pieces.append(module.features(tails, positions=at, cache=cache))                       # type: ignore[operator]
    where = {row: n for n, row in enumerate(rest)}
    each = [piece for row, answer in enumerate(every)
            for piece in (pieces[0][row], *([pieces[1][where[row], :len(answer) - 1]] if row in where else []))]
    return _judged(module, torch.cat(each), every)


def _judged(module: nn.Module, features: Float[Tensor, "N D"], targets: list[np.ndarray]) -> list[Answer]:
    """The answers from the features before each of their tokens; at most LOGITS logits exist at a time."""
    config: Any = module.config
    wanted = torch.from_numpy(np.concatenate(targets))
    step = max(1, LOGITS // config.vocab)
    logp, best = torch.empty(len(wanted)), torch.empty(len(wanted), dtype=torch.bool)
    for start in range(0, len(wanted), step):
        logits = module.head(features[start:start + step]).float()       # type: ignore[operator]
        chosen = logits.gather(-1, wanted[start:start + step, None])[:, 0]
        logp[start:start + step] = chosen - logits.logsumexp(-1)
        best[start:start + step] = chosen >= logits.amax(-1)
    sizes = [len(t) for t in targets]
    return [Answer(p.numpy(), b.numpy()) for p, b in zip(logp.split(sizes), best.split(sizes), strict=True)]
