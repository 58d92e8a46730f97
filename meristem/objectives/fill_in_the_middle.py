"""Fill in the middle: next-token prediction where some documents have a random span moved to their end.

Bavarian et al. 2022, https://arxiv.org/abs/2207.14255, with what its sections 4 and 5 recommend as defaults:

- each document of a row is rearranged with probability `rate`, by itself (a row that packs several documents is
  taken apart at the end tokens first: context-level FIM), in SPM order with probability `spm`, else in PSM order;
- prefix, middle and suffix are cut at two places drawn uniformly, between characters (`level="character"`, so that a
  gap may begin inside a token) or between tokens ("token"); or the middle is what an editor asks for ("line"): from
  the indentation of a line to the end of that line, or of the next (one line in half of the gaps, two in a quarter,
  and so on);
- the loss is that of next-token prediction, over every token, sentinels included.

The middle is always followed by the end token: that is how a model says that the gap is full. Sentinels and end take
up room, so what no longer fits falls off the end of the row's last document (the end of its suffix); a rearranged
document is never torn. Drawn from torch's generator, which the trainer seeds for each step.

    meristem pretrain fim data.corpus=CORPUS
"""
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.loader import separate
from meristem.generate.infill import Sentinels
from meristem.objectives.next_token import NextToken

OVERHEAD = 4                            # three sentinels and an end
UNFINISHED = "\ufffd"                   # what a decoder writes for a character that a row's edge cut in two
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
Level = Literal["character", "token", "line"]


class FillInTheMiddle(NextToken):
    """NextToken on rows whose documents are rearranged; rate 0 is NextToken itself. A run gives its `codec`.

    RequestError when the codec has no sentinels, or does not join texts that it encoded apart.
    """

    def __init__(self, model: nn.Module, codec: Codec, rate: float = 0.5, spm: float = 0.5,
                 level: Level = "character"):
        super().__init__(model)
        if not 0 <= rate <= 1 or not 0 <= spm <= 1 or level not in get_args(Level):
            raise RequestError(f"objective.rate={rate} and objective.spm={spm} must lie in [0, 1], "
                               f"objective.level={level!r} must be one of {', '.join(get_args(Level))}")
        parts = codec.encode_batch(["a b", "c", " d"])
        if level != "token" and codec.decode(np.concatenate(parts)) != "a bc d":
            raise RequestError(f"the {codec.name} codec does not join texts that it encoded apart; "
                               "set objective.level=token")
        self.codec, self.sentinels = codec, Sentinels.of(codec)
        self.rate, self.spm, self.level = rate, spm, level

    def prepare(self, batch: Batch) -> Batch:
        """Rearrange the documents of each row; tokens [B, T+1] and weight [B, T] keep their shapes.

        RequestError for a batch with prompts: those are examples, not documents.
        """
        if self.rate == 0:
            return batch
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        tokens, counts = batch["tokens"].cpu().numpy(), batch["weight"].cpu().numpy() > 0
        made, weight = np.full_like(tokens, self.codec.end), np.zeros(counts.shape, dtype=np.float32)
        for row, (ids, counted) in enumerate(zip(tokens, counts, strict=True)):
            length = int(counted.sum()) + 1                    # 1 in a row that is all padding
            if not counted[:length - 1].all():
                raise RequestError("fill_in_the_middle needs whole documents; unset data.examples")
            if length > 1:
                new = self.rearranged(ids[:length], len(ids), rng)
                made[row, :len(new)], weight[row, :len(new) - 1] = new, 1.0
        place = batch["tokens"].device
        out = {**batch, "tokens": torch.tensor(made, device=place), "weight": torch.tensor(weight, device=place)}
        return separate(out, self.codec.end) if "segments" in batch else out

    def rearranged(self, ids: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
        """One row of documents, made at most `room` tokens long (it may grow into its padding)."""
        out: list[np.ndarray] = []
        for document in np.split(ids, np.flatnonzero(ids == self.codec.end) + 1):
            out.append(self.document(document, room, rng)[:room])
            room -= len(out[-1])
        return np.concatenate(out)

    def document(self, ids: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
        """One document (its end token may lie beyond the row) as it is, or rearranged within `room` tokens."""
        text = ids[ids != self.codec.end][:max(0, room - OVERHEAD)]
        if not len(text) or rng.random() >= self.rate:
            return ids
        spm = rng.random() < self.spm
        prefix, middle, suffix = self.cut(text, rng)
        over = len(prefix) + len(middle) + len(suffix) + OVERHEAD - room           # cut tokens are encoded anew
        if over > len(suffix):
            prefix, middle, suffix = cut_tokens(text, rng)
        elif over > 0:
            suffix = suffix[:-over]
        return np.append(self.sentinels.arrange(prefix, middle, suffix, spm), self.codec.end)

    def cut(self, ids: np.ndarray, rng: np.random.Generator) -> Parts:
        """Prefix, middle and suffix; between tokens where the text begins or ends inside a character."""
        text = self.codec.decode(ids) if self.level != "token" else UNFINISHED
        if UNFINISHED in text:
            return cut_tokens(ids, rng)
        a, b = cut_lines(text, rng) if self.level == "line" else sorted(rng.integers(0, len(text) + 1, 2).tolist())
        prefix, middle, suffix = self.codec.encode_batch([text[:a], text[a:b], text[b:]])
        return prefix, middle, suffix


def cut_tokens(ids: np.ndarray, rng: np.random.Generator) -> Parts:
    """Three parts that join to `ids`, cut at two places drawn uniformly."""
    a, b = sorted(rng.integers(0, len(ids) + 1, 2).tolist())
    return ids[:a], ids[a:b], ids[b:]


def cut_lines(text: str, rng: np.random.Generator) -> tuple[int, int]:
    """Where a gap of whole lines begins, after an indentation, and ends, before a line end; (0, 0) in a blank text.

    The last line is only taken where it is the only one: in a window of a document it may be half a line.
    """
    lines = text.split("\n")
    lines = lines[:-1] or lines
    written = [i for i, line in enumerate(lines) if line.strip()]
    if not written:
        return 0, 0
    first = written[int(rng.integers(len(written)))]
    last = min(first + int(rng.geometric(0.5)) - 1, len(lines) - 1)
    start = sum(len(line) + 1 for line in lines[:first])
    indent = len(lines[first]) - len(lines[first].lstrip())
    return start + indent, start + sum(len(line) + 1 for line in lines[first:last + 1]) - 1
