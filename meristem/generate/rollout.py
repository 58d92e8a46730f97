"""Answers that a policy is trained on: drawn quickly with a cache, and exactly as the training forward would draw them.

    made = roll(module, prompts, 8, Sampling(length=64, temperature=1.0), ends, width, judge, seed=0)

A cache computes the same numbers in another order of sums, so what it draws comes from a slightly other distribution
than the one that is trained: 1e-6 in fp32, 1e-2 in bf16, which importance weights would have to mend. Here the
random number of each token is fixed by (seed, row, place); after the draw the training forward `judge`s every place
with the same number, and where it would have picked another token, that one is taken and the row is drawn on from
there. What remains is, token by token, what the training forward alone draws, whatever the cache, its type, its kernels
and the size of its batches did; it costs the one pass that log-probabilities are needed from anyway, and in bf16 a few
more tokens.
"""
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.random import later, seed_of, uniform
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling, pick


@dataclass(frozen=True)
class Rollout:
    """Answers in rows: tokens int64 [N, W], the places before each of an answer's tokens [N, L], 1 where there is
    one [N, L]; `answers` are their ids, the end included; `redrawn` counts tokens that the cache had drawn otherwise.
    """

    tokens: Int[Tensor, "N W"]
    places: Int[Tensor, "N L"]
    weight: Float[Tensor, "N L"]
    answers: list[list[int]]
    redrawn: int = 0

    @property
    def targets(self) -> Int[Tensor, "N L"]:
        """The token after each place."""
        return self.tokens.gather(1, self.places + 1)


Judge = Callable[[Rollout], Float[Tensor, "N L V"]]            # logits at a rollout's places, as in training


def roll(module: nn.Module, prompts: Sequence[np.ndarray], copies: int, sampling: Sampling, ends: Collection[int],
         width: int, judge: Judge, end: int = 0, numbers: Sequence[int] | None = None) -> Rollout:
    """`copies` answers to each prompt, those to one prompt side by side, in rows of `width` tokens padded with `end`.

    An answer is over at a token of `ends`, which belongs to it, or after `sampling.length` tokens. `numbers` are those
    of the rows where other processes have others: equal numbers draw equal answers.
    """
    rows = [np.asarray(prompt) for prompt in prompts for _ in range(copies)]
    keys = np.array([seed_of(sampling.seed, "row", row) for row in numbers or range(len(rows))], dtype=np.uint64)
    answers = _draw(module, prompts, copies, sampling, ends, keys)
    redrawn = 0
    while True:
        made = replace(laid(rows, answers, sampling.length, width, end), redrawn=redrawn)
        would = picked(judge(made), keys, sampling)
        wrong = (would != made.targets) & (made.weight > 0)
        if not wrong.any():
            return made
        first = torch.where(wrong.any(1), wrong.int().argmax(1), -1).tolist()
        for place in sorted({at for at in first if at >= 0}):
            which = [row for row, at in enumerate(first) if at == place]
            redrawn += len(which)
            for row in which:
                answers[row] = [*answers[row][:place], int(would[row, place])]
            left = sampling.length - place - 1
            going = [row for row in which if answers[row][-1] not in ends and left]
            if going:
                drawn = _draw(module, [np.append(rows[row], answers[row]) for row in going], 1,
                              replace(sampling, length=left), ends, later(keys[going], place + 1))
                for row, more in zip(going, drawn, strict=True):
                    answers[row] += more


def laid(rows: Sequence[np.ndarray], answers: list[list[int]], length: int, width: int, end: int) -> Rollout:
    """Prompts with their answers as rows; answers have at most `length` tokens."""
    tokens = torch.full((len(rows), width + 1), end, dtype=torch.long)
    sizes = torch.tensor([len(answer) for answer in answers])
    starts = torch.tensor([len(row) for row in rows])
    for n, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        tokens[n, : len(row) + len(answer)] = torch.from_numpy(np.append(row, answer).astype(np.int64))
    at = torch.arange(length)
    weight = (at < sizes[:, None]).float()
    return Rollout(tokens, (starts[:, None] - 1 + at).clamp(max=width - 1), weight, answers)


def picked(logits: Float[Tensor, "N L V"], keys: np.ndarray, sampling: Sampling) -> Int[Tensor, "N L"]:
    """What each place's random number picks from its logits."""
    return torch.stack([pick(logits[:, at].float(), uniform(keys, at), sampling) for at in range(logits.shape[1])], 1)


def _draw(module: nn.Module, prompts: Sequence[np.ndarray], copies: int, sampling: Sampling, ends: Collection[int],
          keys: np.ndarray) -> list[list[int]]:
    with torch.compiler.set_stance("force_eager"):             # a shape of its own for every number of rows left
        made = generate(module, prompts, sampling, on_token=lambda row, token: token in ends, keys=keys, copies=copies)
    return [one.tokens for one in made]
