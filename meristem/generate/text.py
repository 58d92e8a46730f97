"""From tokens to text: whole characters as they appear, texts that stop the output, grammars.

    complete(module, codec, [prompt_ids], Sampling(length=64, stop=("\\n\\n",)), on_text=lambda row, piece: ...)

A stop text may begin in one token and end in a later one. What could still become one is held back until it is clear,
so that half of it is never shown.
"""
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.generate import autoregressive
from meristem.generate.base import Read
from meristem.generate.constrain import grammar
from meristem.generate.sampling import Sampling

UNFINISHED = "\ufffd"                   # what a decoder writes for bytes that are not yet a whole character
BEFORE = 8                              # tokens of the prompt that are decoded again: some codecs drop a leading space


@dataclass(frozen=True)
class Completion:
    """What was added to one prompt. `tokens` make the text; log-probabilities are as in `Generation`."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    reason: Literal["stop", "length"]       # it came to an end (of itself, a stop text, a grammar), or was cut short
    score: float = 0.0                      # of a beam


class Stream:
    """One row's tokens as text: `push` gives what may be shown, `end` the rest; `stopped` once a stop text appeared."""

    def __init__(self, codec: Codec, prompt: Sequence[int] = (), stop: Sequence[str] = ()):
        self.codec, self.stop = codec, tuple(stop)
        self.tokens = list(prompt[-BEFORE:])
        self.first = self.read = len(self.tokens)              # where the output starts; what of it is text already
        self.start = 0                                         # decoding starts here: text before it is settled
        self.text = ""                                         # settled text of the output, stop text included
        self.shown = 0                                         # characters of it that `push` gave away
        self.stopped = False
        self.begins: list[int] = []                            # how much text was settled when each token came

    def push(self, token: int) -> str:
        """The text that may be shown now; "" while a character or a possible stop text is incomplete."""
        self.begins.append(len(self.text))
        self.tokens.append(token)
        before, after = self._decode()
        if len(after) <= len(before) or after.endswith(UNFINISHED):
            return ""
        self.start, self.read = self.read, len(self.tokens)
        return self._settle(after[len(before):])

    def end(self) -> str:
        """What was still held back, when no token follows."""
        if self.stopped:
            return ""
        before, after = self._decode()
        self.read = len(self.tokens)
        piece = self._settle(after[len(before):])
        return piece if self.stopped else piece + self._show(len(self.text))

    @property
    def kept(self) -> int:
        """How many of the output's tokens make the shown text; those wholly inside a stop text do not."""
        return sum(begin < self.shown for begin in self.begins) if self.stopped else len(self.begins)

    def _decode(self) -> tuple[str, str]:
        decode = self.codec.decode
        return decode(self.tokens[self.start:self.read]), decode(self.tokens[self.start:])

    def _settle(self, piece: str) -> str:
        self.text += piece
        found = [at for at in (self.text.find(s, self.shown) for s in self.stop) if at >= 0]
        if found:
            self.stopped, self.text = True, self.text[:min(found)]
            return self._show(len(self.text))
        hold = max((_overlap(self.text[self.shown:], s) for s in self.stop), default=0)
        return self._show(len(self.text) - hold)

    def _show(self, upto: int) -> str:
        piece, self.shown = self.text[self.shown:upto], upto
        return piece


def complete(module: nn.Module, codec: Codec, prompts: Sequence[np.ndarray], sampling: Sampling | None = None, *,
             on_text: Callable[[int, str], None] | None = None, draft: nn.Module | None = None,
             also: Collection[int] = (), source: Sequence[np.ndarray] | Read | None = None) -> list[Completion]:
    """Text after each prompt (ids); `on_text(row, piece)` hears it as it appears, whole characters only.

    A row ends at the codec's end token or at one of `also`. The pieces of a row join to its text. An encoder-decoder
    reads `source`, which may also be what a model is shown. With `sampling.whole` a text that had to be closed is
    whole, and its reason is "length": its words are not all that the model had to say. RequestError as
    `autoregressive.generate`, and for a bad grammar.
    """
    sampling = sampling or Sampling()
    config: Any = module.config
    rules = grammar(sampling, codec, config.vocab, also=also)
    steering = [rules.copy() for _ in prompts] if rules else []
    streams = [Stream(codec, np.asarray(p).tolist(), sampling.stop) for p in prompts]
    plain = replace(sampling, stop=(), regex=None, schema=None, lark=None, whole=False)
    reach = max((len(s.encode()) for s in sampling.stop), default=0) + 4       # tokens that a stop text may lie in

    def show(row: int, token: int) -> bool:
        piece = streams[row].push(token)
        if piece and on_text:
            on_text(row, piece)
        return streams[row].stopped

    def ends(row: int, tokens: list[int]) -> bool:
        recent = len(tokens) - reach                           # what came before was asked about before
        stream = Stream(codec, [*np.asarray(prompts[row]).tolist(), *tokens[:max(0, recent)]], sampling.stop)
        for token in tokens[max(0, recent):]:
            stream.push(token)
        return stream.stopped

    made = autoregressive.generate(module, prompts, plain, stop={codec.end, *also}, on_token=show, draft=draft,
                                   grammars=steering, ends=ends if sampling.stop else None, source=source)
    out = []
    for row, (stream, one) in enumerate(zip(streams, made, strict=True)):
        piece = stream.end()
        if piece and on_text:
            on_text(row, piece)
        whole = (rules.accepts(one.tokens) and not steering[row].hurried) if rules else one.stopped or stream.stopped
        out.append(Completion(stream.text, one.tokens[:stream.kept], one.logprobs[:stream.kept], one.top[:stream.kept],
                              "stop" if whole else "length", one.score))
    return out


def whole(made: Completion, sampling: Sampling) -> Completion:
    """`made`, or a RequestError when a grammar was asked for and its text was cut off."""
    if made.reason == "length" and sampling.demands:
        raise RequestError(f"after {len(made.tokens)} tokens the text did not yet satisfy its {sampling.demands}; ask "
                           "for a greater length")
    return made


def _overlap(text: str, stop: str) -> int:
    """How many last characters of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
