"""Who is judged: a network (`Subject`) or the 5-gram (`NGram`), behind the same two questions (`base.LanguageModel`).

A text longer than the network's context is read in windows that overlap by half, so every token past the first window
is scored with at least half a context before it. The 5-gram is asked for exactly the same tokens.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meristem.codecs.base import Codec, begin
from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes
from meristem.corpus.kneser_ney import KneserNey
from meristem.evals.base import Pair

if TYPE_CHECKING:
    from torch import nn

BATCH_TOKENS = 16_384                   # a forward pass; logits of 8,192 words are then 0.5 GB in fp32
ROWS = 64                               # prompts completed at once


@dataclass
class NoText:
    """The codec of a model that reads no text: whatever would put one to it is refused."""

    name: str = "no text"
    vocab: int = 0
    end: int = 0
    hash: str = "no text"
    marks: dict[str, int] = field(default_factory=dict)

    def encode(self, text: str) -> np.ndarray:
        """RequestError."""
        raise RequestError("this model sees pictures and reads no text; ask a task about pictures (see: meristem list "
                           "tasks)")

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """RequestError, if there is a text."""
        return [self.encode(text) for text in texts]

    def places(self, text: str) -> list[tuple[int, int]]:
        """RequestError."""
        self.encode(text)
        return []

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """No ids, no text."""
        return ""

    def save(self, folder: Path) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Subject:
    """A network with its codec. `folder` (a run folder), where given, keeps its results in `evals/`."""

    module: "nn.Module"
    codec: Codec
    model_hash: str
    context: int
    name: str = "model"
    folder: Path | None = None

    @classmethod
    def open(cls, folder: Path, name: str = "", stretch: tuple[str, float, float] | None = None) -> "Subject":
        """The model of a run folder (results are kept in its `evals/`) or of a bare folder (none are kept); adapters
        on their base, too.

        `stretch` = ("yarn", 4.0, 0.0): the model reads so many times its context by that scaling (`hf.stretched`); none
        are kept either.
        """
        from meristem.hub import hf
        from meristem.hub.cache import adapter_of
        from meristem.train import adapted
        loaded, adapter = adapted.opened(folder), adapter_of(folder.expanduser())
        identity = adapted.identity(folder, loaded)
        if stretch and adapter:
            raise RequestError(f"{folder} is an adapter on its base; only a model of plain weights can be stretched")
        if stretch:
            loaded, identity = hf.stretched(loaded, *stretch), digest_bytes(identity, *map(str, stretch))
        codec = loaded.codec or (NoText() if "vocab" not in vars(loaded.config) else None)
        if codec is None:
            raise RequestError(f"{loaded.folder} has no tokenizer.json, so no text can be put to it")
        where = adapter or loaded.folder
        run = where.parent if (where.parent / "recipe.json").is_file() else None
        return cls(loaded.module, codec, identity, vars(loaded.config).get("context", 0),
                   name or (run or where).name, None if stretch else run)

    def score(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """Natural log p of each answer token."""
        from meristem.generate.answers import answers
        from meristem.generate.score import logprobs
        fits = [len(answer) > 0 and len(prompt) + len(answer) <= self.context + 1 for prompt, answer in pairs]
        whole = iter(answers(self.module, [pair for pair, fit in zip(pairs, fits, strict=True) if fit]))
        windows = [[] if fit else _windows(*pair, self.context) for pair, fit in zip(pairs, fits, strict=True)]
        found = iter(logprobs(self.module, [row for rows in windows for row, _ in rows], BATCH_TOKENS))
        return [next(whole).logprobs if fit else np.concatenate([next(found)[-fresh:] for _, fresh in rows])
                for fit, rows in zip(fits, windows, strict=True)]

    def complete(self, prompts: Sequence[np.ndarray], length: int, temperature: float, seed: int) -> list[np.ndarray]:
        """Prompts are cut on the left so that both fit the context; a completion takes at most half of it."""
        from meristem.generate.autoregressive import generate
        room = self.room(length)
        length = self.context - room
        cut = [np.asarray(p)[-room:] for p in prompts]
        order = sorted(range(len(cut)), key=lambda i: len(cut[i]))     # rows of like length share a batch
        out: list[np.ndarray] = [np.empty(0, dtype=np.int32)] * len(cut)
        for start in range(0, len(order), ROWS):
            rows = order[start:start + ROWS]
            done = generate(self.module, [cut[i] for i in rows], length=length, temperature=temperature,
                            seed=seed + start, stop={self.codec.end})
            for i, generation in zip(rows, done, strict=True):
                out[i] = np.array(generation.tokens + [self.codec.end] * generation.stopped, dtype=np.int32)
        return out

    def room(self, length: int) -> int:
        """What the context leaves for a prompt."""
        return self.context - min(length, self.context // 2)


@dataclass(frozen=True)
class NGram:
    """The Kneser-Ney baseline as a subject."""

    model: KneserNey
    codec: Codec

    def score(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """Natural log p of each answer token."""
        end = np.array([self.model.end])
        rows = [np.concatenate([end, prompt, answer]) for prompt, answer in pairs]
        found = np.split(self.model.logprobs(np.concatenate(rows)), np.cumsum([len(r) for r in rows])[:-1])
        return [p[len(p) - len(answer):] for p, (_, answer) in zip(found, pairs, strict=True)]

    def complete(self, prompts: Sequence[np.ndarray], length: int, temperature: float, seed: int) -> list[np.ndarray]:
        """Row i draws from a generator of (seed, i)."""
        rngs = [np.random.default_rng((seed, i)) for i in range(len(prompts))]
        return [self.model.sample(p, length, rng, temperature) for p, rng in zip(prompts, rngs, strict=True)]

    def room(self, length: int) -> float:
        """Without end: it looks at four tokens anyway."""
        return inf


def prompt_ids(codec: Codec, text: str, begins: bool) -> np.ndarray:
    """Ids of a prompt; one that begins its document follows the end token of the one before, as in training."""
    ids = np.asarray(codec.encode(text), dtype=np.int64)
    return np.concatenate([[begin(codec)], ids]) if begins else ids


def answer_ids(codec: Codec, text: str, ends: bool) -> np.ndarray:
    """Ids of an answer, with the end token where it closes the document."""
    ids = np.asarray(codec.encode(text), dtype=np.int64)
    return np.concatenate([ids, [codec.end]]) if ends else ids


def _windows(prompt: np.ndarray, answer: np.ndarray, context: int) -> list[tuple[np.ndarray, int]]:
    """Rows of at most context + 1 tokens, and how many of each row's last tokens are scored by it."""
    assert len(prompt), "the first token of a row cannot be predicted: prompts hold at least the end token"
    row = np.concatenate([prompt, answer])
    out, done = [], len(prompt)
    while done < len(row):
        start = max(0, min(done - context // 2, len(row) - context - 1))
        stop = min(len(row), start + context + 1)
        out.append((row[start:stop], stop - done))
        done = stop
    return out
