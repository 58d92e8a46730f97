"""Questions for reinforcement learning: prompts that a model answers itself, with what a reward needs to judge it.

    data.examples=questions      rows with prompt (text or messages) and answer, or input and target

A batch holds `tokens` [B, P+1], each prompt on the left and padding behind it, `lengths` [B], how long each is, and
`targets` [B, L], the ids of the right answer, -1 behind them. What is trained on is made from it by the objective
(`objectives.rollouts`). Prompts that leave no room for an answer are left out and counted in `skipped`.
"""
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.conversations import Fields, Reader, evenly
from meristem.data.loader import Order

ENTRY = "questions"                     # in run.data.examples


def is_question(fields: Fields) -> bool:
    """Whether a row has a prompt and something to check an answer by."""
    return "answer" in fields and isinstance(fields["answer"], str) or ("target" in fields and "shots" not in fields)


class Questions:
    """A source for `Trainer`; `room` tokens are kept for an answer in rows of `context`."""

    def __init__(self, rows: Sequence[Fields], reader: Reader, context: int, room: int, batch: int, seed: int, *,
                 micro: int = 0) -> None:
        prompts = [reader.prompt(fields) for fields in rows]
        targets = reader.codec.encode_batch([fields.get("answer", fields.get("target", "")) for fields in rows])
        fit = [n for n, prompt in enumerate(prompts) if len(prompt) + room <= context]
        self.skipped = len(rows) - len(fit)
        if not fit:
            raise RequestError(f"no prompt leaves room for {room} tokens of an answer in {context}; raise "
                               "train.context or lower objective.length")
        self.lengths = np.array([len(prompts[n]) for n in fit])
        self.tokens = np.full((len(fit), context + 1), reader.codec.end, dtype=np.int32)
        self.targets = np.full((len(fit), max(len(targets[n]) for n in fit)), -1, dtype=np.int32)
        for row, n in enumerate(fit):
            self.tokens[row, : len(prompts[n])], self.targets[row, : len(targets[n])] = prompts[n], targets[n]
        self.order = Order(len(fit), batch, seed, micro)

    def __call__(self, step: int) -> list[Batch]:
        """The prompts of one update, in micro-batches."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number."""
        return {key: torch.from_numpy(rows[which].astype(np.int64)) for key, rows in (
            ("tokens", self.tokens), ("lengths", self.lengths), ("targets", self.targets))}

    def held_out(self, batch: int, limit: int) -> Iterator[Batch]:
        """The prompts in order, at most about `limit` tokens of their rows, taken evenly."""
        for rows in evenly(len(self.tokens), self.tokens.shape[1], batch, limit):
            yield self.batch(rows)
