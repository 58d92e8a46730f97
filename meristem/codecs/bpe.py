"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes as in GPT-2, Radford et al. 2019), by `tokenizers`.

Text is first split so that no token crosses a boundary that matters in code: an identifier with its underscores is one
piece, each digit is one, and a line end with the indentation of the next line is one. Every text can be encoded, since
the 256 bytes are tokens. `fit(texts, 4096).save(folder)`; `load(folder)` reads any byte-level BPE of the Hub as well.
"""
import heapq
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from meristem.codecs import base
from meristem.core import files
from meristem.core.errors import RequestError

SPLITS = ("train",)    # merges are learned: the other splits stay unseen

SPLIT = (
    r"[^\r\n\p{L}\p{M}\p{N}_]?[\p{L}\p{M}_]+"   # an identifier, with the one space, dot or bracket before it
    r"|\s*[\r\n][ \t]*"                     # line ends, blank lines and the indentation of the next line
    r"| ?[\p{N}]"                           # each digit by itself (Llama, PaLM: arithmetic needs it)
    r"| ?[^\s\p{L}\p{M}\p{N}_]+"            # a run of punctuation
    r"|\s+(?!\S)|\s+"                       # other white space, leaving one space to the word after it
)                                       # 3.46 bytes a token on the standard library at 4,096 ids; without the dot 3.32
ASCII_SPLIT = re.compile(SPLIT.replace(r"\p{L}\p{M}", "a-zA-Z").replace(r"\p{N}", "0-9"), re.ASCII)
MOST_PIECES = 1 << 20                   # about 150 MB
SAMPLE = 8 << 20                        # bytes of text that merges are learned from: more changes few of them
SMALLEST = 257                          # the bytes and the end token


class Bpe(base.Fast):
    """A `Codec` around a `tokenizers.Tokenizer`."""

    name = "bpe"

    def __init__(self, tokenizer: Tokenizer, roles: dict[str, str]) -> None:
        super().__init__(tokenizer, roles)
        self._pieces = Pieces(tokenizer) if _split_pattern(self._json) == SPLIT else None

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, "n"]]:
        """The ids of each text; ASCII through the table of pieces, the rest on all cores."""
        if self._pieces is None:
            return super().encode_batch(texts)
        ascii_ids = iter(self._pieces.encode([text for text in texts if text.isascii()]))
        other_ids = iter(super().encode_batch([text for text in texts if not text.isascii()]))
        return [next(ascii_ids if text.isascii() else other_ids) for text in texts]


class Pieces:
    """Encodes ASCII text by looking up whole pieces: 9 of 10 pieces of a text stood before it in some other text.

    Splitting by `re` and one look-up a piece replace the library's regular expression and merges, which run only for
    pieces not seen yet: 2 to 3 times as fast. The ids are the same, because a piece is encoded by itself anyway.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.clear()

    def clear(self) -> None:
        """Forget all pieces."""
        self.number: dict[str, int] = {}                       # piece -> its place in the two arrays below
        self.ids = np.empty(0, dtype=np.int32)                 # the ids of all pieces, one after another
        self.starts = np.zeros(1, dtype=np.int64)              # where those of each start, and the end of the last

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text."""
        if len(self.number) > MOST_PIECES:
            self.clear()
        split = [ASCII_SPLIT.findall(text) for text in texts]
        self._learn(sorted(set().union(*split).difference(self.number)))
        numbers = (np.fromiter(map(self.number.__getitem__, pieces), np.int64, len(pieces)) for pieces in split)
        return [self._look_up(which) for which in numbers]

    def _learn(self, pieces: list[str]) -> None:
        if pieces:
            found = [e.ids for e in self.tokenizer.encode_batch_fast(pieces, add_special_tokens=False)]
            self.number.update(zip(pieces, range(len(self.number), len(self.number) + len(pieces)), strict=True))
            self.starts = np.append(self.starts, self.starts[-1] + np.cumsum(list(map(len, found))))
            self.ids = np.append(self.ids, np.fromiter(itertools.chain.from_iterable(found), np.int32))

    def _look_up(self, which: np.ndarray) -> np.ndarray:
        starts = self.starts[which]
        lengths = self.starts[which + 1] - starts
        total = np.cumsum(lengths)
        if not len(which):
            return np.empty(0, dtype=np.int32)
        return self.ids[np.repeat(starts - total + lengths, lengths) + np.arange(total[-1])]


def fit(texts: Iterable[str], vocab: int, special: Sequence[str] = ()) -> Bpe:
    """Learn `vocab` tokens from at most 8 MB of `texts`: those with the smallest hashes, so order does not matter.

    `special` tokens get the ids 1, 2, ... (say `chat.CHATML_TOKENS`). RequestError when `vocab` is below 257 and their
    number, or there is no text. A small text gives fewer tokens than asked for.
    """
    if vocab < SMALLEST + len(special):
        raise RequestError(f"vocab is {vocab}; a byte-level one needs at least {SMALLEST + len(special)} "
                           f"(256 bytes, {', '.join([base.END, *special])})")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[base.END, *special], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    chosen = sample(texts)
    if not chosen:
        raise RequestError("there is no text to fit a vocabulary to")
    tokenizer.train_from_iterator(chosen, trainer)
    return Bpe(tokenizer, {"end": base.END})


def load(folder: Path) -> Bpe:
    """The tokenizer in `folder`; its end token is the `eos_token` of tokenizer_config.json."""
    tokenizer = base.read_fast(folder)
    return Bpe(tokenizer, base.read_roles(folder, tokenizer))


def _split_pattern(tokenizer: str) -> str:
    """The first regular expression that a tokenizer.json splits text by, if that is how it starts; else ""."""
    tree = json.loads(tokenizer)
    steps = (tree.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    return (steps[0].get("pattern") or {}).get("Regex", "") if tree.get("normalizer") is None else ""


def sample(texts: Iterable[str]) -> list[str]:
    """The texts with the smallest hashes, up to SAMPLE bytes together (at least one), sorted by hash."""
    heap: list[tuple[int, str]] = []                           # the largest hash on top
    total = 0
    for text in filter(None, texts):
        heapq.heappush(heap, (-int(files.digest_bytes(text)[:15], 16), text))
        total += len(text.encode())
        while total - len(heap[0][1].encode()) >= SAMPLE:      # what is dropped could not have been chosen later either
            total -= len(heapq.heappop(heap)[1].encode())
    if total > SAMPLE and len(heap) > 1:
        heapq.heappop(heap)
    return [text for _, text in sorted(heap, reverse=True)]
