"""Pictures among words: questions about pictures, worked examples with pictures, conversations, what a robot did.

    data.examples=interleaved

Rows (corpus.labelled) have `image` or `images` (or none) and one of
  input and target     [pictures] input, a line end, target; with `shots`, as many as pictures less one, each question
                       has its own picture before it and follows the answer before and a line end (few-shot: Flamingo)
  text                 [pictures] text: a caption
  messages             rendered by the chat template; {"type": "image"} in a user's content is where a picture stands
  action               [pictures] input, a line end, the return to come and the state where there are any, each number a
                       token (codecs.action), then the action: behaviour cloning, RT-2, decision transformers
The answer ends with the end token and is what is trained on, those of the shots, too. A picture takes `each` tokens of
the id `token`, which the model fills (models.llava, models.flamingo). One row a batch row, longer ones are left out and
counted in `skipped`.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meristem.codecs.action import Bins
from meristem.codecs.base import Fast, begin
from meristem.codecs.chat import IMAGE
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.conversations import Reader, Tokens
from meristem.data.loader import Order
from meristem.data.pictures import names_of, stored

ENTRY = "interleaved"                   # in run.data.examples
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Writer:
    """Turns rows into tokens, in which a picture is `each` times the id `token`."""

    reader: Reader
    token: int
    each: int

    def __post_init__(self) -> None:
        codec = self.reader.codec
        own = codec.special.get(IMAGE, self.token) if isinstance(codec, Fast) else self.token
        if own != self.token:
            raise RequestError(f"{IMAGE} is {own} in the tokenizer and {self.token} in the model; set "
                               f"model.image_token={own}")

    def prompt(self, fields: Fields, pictures: int) -> np.ndarray:
        """What the model reads before it answers, with so many pictures."""
        return self._before(fields, pictures).tokens

    def whole(self, fields: Fields, pictures: int) -> Tokens:
        """A row with its answer, which ends."""
        if "messages" in fields and "completion" not in fields:
            made = self.reader.whole(fields)
            return self._wide(made.tokens, made.own, pictures)
        before = self._before(fields, pictures)
        after = np.append(self._answer(fields), self.reader.codec.end).astype(np.int32)
        return Tokens(np.concatenate([before.tokens, after]), np.append(before.own, np.ones(len(after), dtype=bool)))

    def _before(self, fields: Fields, pictures: int) -> Tokens:
        codec = self.reader.codec
        if "messages" in fields:
            read = self.reader.prompt(fields)
            return self._wide(read, np.zeros(len(read), dtype=bool), pictures)
        shots = fields.get("shots", ())
        apart = len(shots) > 0 and pictures == len(shots) + 1
        ids: list[int] = [begin(codec)]
        own: list[bool] = [False]

        def add(some: Sequence[int] | np.ndarray, answer: bool = False) -> None:
            ids.extend(some)
            own.extend([answer] * len(some))

        def ask(text: str, count: int) -> None:
            add([self.token] * (self.each * count))
            add(codec.encode(text if shots else text + "\n") if text else [])

        for number, (question, answer) in enumerate(shots):
            ask(question, 1 if apart else pictures * (number == 0))
            add(codec.encode(answer + "\n"), answer=True)
        ask(fields.get("input", ""), 1 if apart else pictures * (not shots))
        told = [*([fields["return"]] if "return" in fields else []), *fields.get("state", ())]
        if told:
            add(Bins.of(codec).ids(np.array(told)))
        return Tokens(np.array(ids, dtype=np.int32), np.array(own))

    def _answer(self, fields: Fields) -> np.ndarray:
        codec = self.reader.codec
        if "action" in fields:
            return Bins.of(codec).ids(np.array(fields["action"]))
        return codec.encode(fields.get("target", fields.get("completion", fields.get("text", ""))))

    def _wide(self, ids: np.ndarray, own: np.ndarray, pictures: int) -> Tokens:
        """What a chat template wrote, each picture's token as often as it takes."""
        if (count := int((ids == self.token).sum())) != pictures:
            raise RequestError(f"a conversation names {count} pictures and has {pictures}; put {{'type': 'image'}} "
                               "where each stands")
        times = np.where(ids == self.token, self.each, 1)
        return Tokens(np.repeat(ids, times), np.repeat(own, times))


class Interleaved:
    """A source for `Trainer`: rows of one split, shuffled anew each epoch."""

    def __init__(self, rows: Sequence[Tokens], places: np.ndarray, pixels: np.ndarray, end: int, context: int,
                 order: tuple[int, int, int]) -> None:
        fit = [n for n, row in enumerate(rows) if len(row.tokens) <= context + 1]
        self.skipped, self.pixels, self.places = len(rows) - len(fit), pixels, places[fit]
        if not fit:
            raise RequestError(f"none of {len(rows)} rows fits {context} tokens; raise train.context")
        self.tokens = np.full((len(fit), context + 1), end, dtype=np.int32)
        self.own = np.zeros((len(fit), context + 1), dtype=bool)
        for at, n in enumerate(fit):
            length = len(rows[n].tokens)
            self.tokens[at, :length], self.own[at, :length] = rows[n].tokens, rows[n].own
        batch, seed, micro = order
        self.order = Order(len(fit), batch, seed, micro)

    @classmethod
    def of(cls, corpus: Corpus, writer: Writer, split: str, picture: tuple[int, int], context: int,
           order: tuple[int, int, int]) -> "Interleaved":
        """The rows of a split with pictures of (side, channels); `order` is (batch, seed, micro)."""
        documents = list(corpus.documents(split))
        counts = [len(names_of(d)) for d in documents]
        rows = [writer.whole(d.fields, count) for d, count in zip(documents, counts, strict=True)]
        side, channels = picture
        none = np.zeros((0, channels, side, side), dtype=np.uint8)
        pixels = stored(corpus, side, channels, several=True).get(split, none) if any(counts) else none
        places = np.full((len(rows), max([1, *counts])), -1)
        at = 0
        for n, count in enumerate(counts):
            places[n, :count] = np.arange(at, at + count)
            at += count
        return cls(rows, places, pixels, writer.reader.codec.end, context, order)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number: tokens [B, T+1], weight [B, T], images [B, P, C, H, W], black where a row has fewer.

        No images where the whole corpus has none.
        """
        rows: Batch = {"tokens": torch.from_numpy(self.tokens[which].astype(np.int64)),
                       "weight": torch.from_numpy(self.own[which][:, 1:].astype(np.float32))}
        if not len(self.pixels):                               # a corpus without any picture
            return rows
        places = self.places[which]
        images = np.zeros((*places.shape, *self.pixels.shape[1:]), dtype=np.uint8)
        images[places >= 0] = self.pixels[places[places >= 0]]
        return {**rows, "images": torch.from_numpy(images)}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` rows in order, `rows` at a time; the last batch may be smaller."""
        count = min(limit, len(self.tokens))
        return (self.batch(np.arange(start, min(start + rows, count))) for start in range(0, count, rows))
