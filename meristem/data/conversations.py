"""Instruction tuning: conversations as rows of several, loss on the assistant's tokens only, none seeing another.

    meristem adapt MODEL sft data.corpus=CHATS.jsonl                    # data.examples=conversations

The forms of a row are in `corpus.dialogues`. Messages are rendered by the model's chat template (`codecs.chat`), which
says where the assistant speaks; a plain prompt and its completion follow a begin token and end with the end token, both
of which are what a model sees when it generates. The weight is 1 where the next token is the assistant's own, what ends
his turn included: a model must learn to stop. Special tokens spelled out in a message are ordinary text.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meristem.codecs.base import Codec, begin
from meristem.codecs.chat import Chat
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.loader import Order

ENTRY = "conversations"                 # in run.data.examples
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Tokens:
    """Tokens of one conversation and which of them the assistant wrote, bool [n]."""

    tokens: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Reader:
    """Turns rows of dialogues into tokens; `chat` is the template, None where the model has none."""

    codec: Codec
    chat: Chat | None = None

    @property
    def ends(self) -> frozenset[int]:
        """The tokens at which an answer is over."""
        return frozenset({self.codec.end}) | (self.chat.ends if self.chat else frozenset())

    def prompt(self, fields: Fields) -> np.ndarray:
        """What the model reads before it answers."""
        if "messages" not in fields:
            return np.concatenate([[begin(self.codec)], self.codec.encode(_asked(fields))]).astype(np.int32)
        return self.template.encode(fields["messages"], tools=fields.get("tools", ()), generation_prompt=True)[0]

    def answered(self, fields: Fields, answer: str) -> Tokens:
        """The prompt of a row with one answer, which ends."""
        before = self.prompt(fields)
        if "messages" not in fields:
            after = np.append(self.codec.encode(answer), self.codec.end).astype(np.int32)
        else:
            said = [*fields["messages"], {"role": "assistant", "content": answer}]
            ids = self.template.encode(said, tools=fields.get("tools", ()))[0]
            if not np.array_equal(ids[:len(before)], before):
                raise RequestError("the chat template writes a conversation otherwise once it is answered, so that an "
                                   "answer cannot be told from its prompt; give the model another template")
            after = _until(ids[len(before):], self.ends)
        return Tokens(np.concatenate([before, after]), np.arange(len(before) + len(after)) >= len(before))

    def whole(self, fields: Fields) -> Tokens:
        """A conversation with every answer in it."""
        if "messages" not in fields or "completion" in fields:
            return self.answered(fields, fields.get("completion", fields.get("target", "")))
        messages, tools = fields["messages"], fields.get("tools", ())
        ids, own = self.template.encode(messages, tools=tools)
        if not own.any():                                      # a template without {% generation %}
            for number, message in enumerate(messages):
                if message["role"] == "assistant":
                    before = self.template.encode(messages[:number], tools=tools, generation_prompt=True)[0]
                    upto = self.template.encode(messages[:number + 1], tools=tools)[0]
                    if not (np.array_equal(ids[:len(before)], before) and np.array_equal(ids[:len(upto)], upto)):
                        raise RequestError("the chat template rewrites earlier turns, so that the assistant's tokens "
                                           "cannot be found; mark them in it with {% generation %} ... "
                                           "{% endgeneration %}")
                    own[len(before): len(before) + len(_until(upto[len(before):], self.ends))] = True
        return Tokens(ids, own)

    @property
    def template(self) -> Chat:
        """The chat template; RequestError when there is none."""
        if self.chat is None:
            raise RequestError("these rows are conversations and the model has no chat template: take one that has, "
                               'or a tokenizer with the tokens of ours (data.codec.special=["<|im_start|>", '
                               '"<|im_end|>"], from pretraining on)')
        return self.chat


def of(corpus: Corpus, split: str, wanted: Callable[[Fields], bool], what: str) -> list[Fields]:
    """The rows of a split that have what is wanted; RequestError says what they should have."""
    found: list[Fields] = [d.fields for d in corpus.documents(split) if wanted(d.fields)]
    if not found:
        raise RequestError(f"the {split} split of {corpus.folder} has no {what}; the forms of such rows are in "
                           "docs/alignment.md")
    return found


def is_whole(fields: Fields) -> bool:
    """Whether a row is answered: a conversation, a prompt with its completion, or an input with its target."""
    return not {"chosen", "label", "answer"} & fields.keys() and (
        "messages" in fields or "completion" in fields or ("target" in fields and "shots" not in fields))


@dataclass
class Packing:
    """Sequences laid side by side in rows of `room` tokens, next fit in a shuffled order, none cut."""

    sequences: Sequence[Sequence[Tokens]]                   # each inner list stays together in one row
    room: int
    seed: int

    def rows(self) -> list[list[int]]:
        """Numbers of the groups that make up each row."""
        rows: list[list[int]] = []
        left = 0
        for index in np.random.default_rng(seed_of(self.seed, "pack")).permutation(len(self.sequences)):
            need = sum(len(s.tokens) for s in self.sequences[index])
            if need > left:
                rows.append([])
                left = self.room
            rows[-1].append(int(index))
            left -= need
        return rows

    def fields(self, end: int) -> dict[str, np.ndarray]:
        """tokens int32 [R, room + 1], own bool, segments and positions int32 [R, room]: padding is the last
        segment's."""
        rows = self.rows()
        out = {"tokens": np.full((len(rows), self.room + 1), end, dtype=np.int32),
               "own": np.zeros((len(rows), self.room + 1), dtype=bool),
               "segments": np.zeros((len(rows), self.room), dtype=np.int32),
               "positions": np.zeros((len(rows), self.room), dtype=np.int32)}
        for r, row in enumerate(rows):
            at = number = 0
            for sequence in (s for group in row for s in self.sequences[group]):
                stop = at + len(sequence.tokens)
                out["tokens"][r, at:stop], out["own"][r, at:stop] = sequence.tokens, sequence.own
                out["segments"][r, at:] = number
                out["positions"][r, at:] = np.arange(self.room - at)
                at, number = stop, number + 1
        return out


class Conversations:
    """A source for `Trainer`. Conversations longer than a row are left out and counted in `skipped`."""

    def __init__(self, rows: Sequence[Fields], reader: Reader, context: int, batch: int, seed: int, *,
                 micro: int = 0) -> None:
        read = [reader.whole(fields) for fields in rows]
        fit = [s for s in read if len(s.tokens) <= context]
        self.skipped = len(read) - len(fit)
        if not fit:
            raise RequestError(f"none of {len(read)} conversations fits {context} tokens; raise train.context")
        self.fields = Packing([[s] for s in fit], context, seed).fields(reader.codec.end)
        self.order = Order(len(self.fields["tokens"]), batch, seed, micro)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update: tokens [B, T+1], weight, segments and positions [B, T]."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number."""
        picked = {key: torch.from_numpy(self.fields[key][which].astype(np.int64))
                  for key in ("tokens", "segments", "positions")}
        own = self.fields["own"][which][:, 1:]
        return {**picked, "weight": torch.from_numpy(own.astype(np.float32))}


    def held_out(self, batch: int, limit: int) -> Iterator[Batch]:
        """The rows in order, each once, at most about `limit` tokens of them, taken evenly."""
        for rows in evenly(len(self.fields["tokens"]), self.fields["tokens"].shape[1], batch, limit):
            yield self.batch(rows)


def evenly(count: int, width: int, batch: int, limit: int) -> Iterator[np.ndarray]:
    """Numbers of rows of `width` tokens in order, at most about `limit` tokens, `batch` at a time."""
    which = np.unique(np.linspace(0, count - 1, max(1, min(count, limit // width))).round().astype(np.int64))
    for start in range(0, len(which), batch):
        yield which[start: start + batch]


def _asked(fields: Fields) -> str:
    """The plain text that is answered; a line end stands between an input and its target."""
    return fields["prompt"] if "prompt" in fields else fields["input"] + "\n"


def _until(ids: np.ndarray, ends: frozenset[int]) -> np.ndarray:
    """An answer up to the token that ends it, that one included; all of it where none does."""
    found = np.flatnonzero(np.isin(ids, list(ends)))
    return ids[: found[0] + 1] if len(found) else ids
