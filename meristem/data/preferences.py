"""Judged answers: pairs of a better and a worse one, or single ones that are good or bad, side by side in a row.

    data.examples=preferences    rows with prompt, chosen and rejected: reward models, DPO, IPO, ORPO, SimPO
    data.examples=judged         rows with prompt, completion and label (or pairs, taken apart): KTO

A row of a batch holds whole answers, each after its prompt and seen by itself alone (`segments`, `positions`); the two
of a pair stand next to each other in one row, so rows can be divided among processes. `labels` [B, S] says of each
segment what it is: 1 chosen or good, 0 rejected or bad, 2 one to another prompt (KTO's measure of drift), -1 none.
`places` [B, K] are the inputs after which an answer's token comes, and `weight` [B, K] is 1 where there is one: so the
vocabulary is asked for answers only. The forms of a row in a file are in `corpus.dialogues`.
"""
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.conversations import Fields, Packing, Reader, Tokens, evenly
from meristem.data.loader import Order

PAIRS, JUDGED = "preferences", "judged"                        # in run.data.examples
GOOD, BAD, OTHER, NONE = 1, 0, 2, -1


class Preferences:
    """A source for `Trainer`. Pairs longer than a row are left out and counted in `skipped`."""

    def __init__(self, rows: Sequence[Fields], reader: Reader, context: int, batch: int, seed: int, *,
                 micro: int = 0) -> None:
        groups, labels = self.read(rows, reader)
        fit = [n for n, group in enumerate(groups) if sum(len(s.tokens) for s in group) <= context]
        self.skipped = len(groups) - len(fit)
        if not fit:
            raise RequestError(f"none of {len(groups)} judged answers fits {context} tokens with the one beside it; "
                               "raise train.context")
        packing = Packing([groups[n] for n in fit], context, seed)
        self.fields = packing.fields(reader.codec.end)
        found = [[label for n in row for label in labels[fit[n]]] for row in packing.rows()]
        wide = max(map(len, found))
        self.fields["labels"] = np.array([row + [NONE] * (wide - len(row)) for row in found], dtype=np.int32)
        own = self.fields.pop("own")[:, 1:]
        most = int(own.sum(1).max())
        order = np.argsort(~own, axis=1, kind="stable")[:, :most]
        self.fields["weight"] = np.take_along_axis(own, order, 1)
        self.fields["places"] = np.where(self.fields["weight"], order, 0).astype(np.int32)
        self.order = Order(len(found), batch, seed, micro)

    def read(self, rows: Sequence[Fields], reader: Reader) -> tuple[list[list[Tokens]], list[list[int]]]:
        """The answers that stand together, and what each is."""
        return ([[reader.answered(row, row["chosen"]), reader.answered(row, row["rejected"])] for row in rows],
                [[GOOD, BAD] for _ in rows])

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number."""
        fields = {key: torch.from_numpy(rows[which].astype(np.int64)) for key, rows in self.fields.items()}
        return {**fields, "weight": fields["weight"].float()}

    def held_out(self, batch: int, limit: int) -> Iterator[Batch]:
        """The rows in order, each once, at most about `limit` tokens of them, taken evenly."""
        for rows in evenly(len(self.fields["tokens"]), self.fields["tokens"].shape[1], batch, limit):
            yield self.batch(rows)


class Judged(Preferences):
    """Single answers. Beside each stands the next row's answer after the same prompt, as KTO measures drift by."""

    def read(self, rows: Sequence[Fields], reader: Reader) -> tuple[list[list[Tokens]], list[list[int]]]:
        """Pairs are taken apart into a good and a bad answer."""
        single = [(row, row[key], label) for row in rows for key, label in (
            [("chosen", GOOD), ("rejected", BAD)] if "chosen" in row else
            [("completion", GOOD if row["label"] else BAD)])]
        others = [text for _, text, _ in single]
        others = others[-2:] + others[:-2]                     # two back: another prompt than this pair's own
        groups = [[reader.answered(row, text), reader.answered(row, other)]
                  for (row, text, _), other in zip(single, others, strict=True)]
        return groups, [[label, OTHER] for _, _, label in single]


def wanted(entry: str, fields: Fields) -> bool:
    """Whether a row has what an entry reads."""
    return "chosen" in fields or (entry == JUDGED and "label" in fields and "completion" in fields)
