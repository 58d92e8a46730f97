"""Procedural text with exact ground truth: questions whose answers are known because a seeded generator made them.

    meristem curate toy:mapping --out runs/mapping                     # a corpus like any other
    meristem curate toy:needle length=1024 documents=200 --out runs/needle-1024

| kind | a document | asks for |
| --- | --- | --- |
| mapping | lines `k3`; every document draws anew which letter has which label | in-context learning |
| arithmetic | lines `37+48=85`; the three splits have different problems | calculation |
| tutor | lines `237+148 hint 1:7+8=15`, a column each from the ones up, then `237+148=385` | hints, step by step |
| needle | filler with lines `code K482.` in it, then questions for the codes | retrieval at any length |
| copies | random words and figures once more, or the one that stood behind a name | copying, before instructions |

`toy:scenes` makes pictures: data/scenes.py.

`corpus.made` keeps the rows as train.jsonl, validation.jsonl and test.jsonl and makes a corpus of them. A row is
{"input", "target", "shots", "text"}: the last question of the document, its answer, the questions with answers before
it, and all of it, `input + target` and a line end each. So the same corpus serves next-token prediction on its text,
`data.examples=answers` (loss on the answers alone), encoder-decoders (input to target), and the few-shot task
`exact_answer`. Everything is a pure function of the fields below, the seed among them.
"""
import json
from collections.abc import Iterator
from collections.abc import Mapping as Fields
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Protocol

import numpy as np

from meristem.core.config import from_dict
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus

PREFIX = "toy:"
SUBJECTS = ("a boat", "the river", "a grey bird", "the old road", "some rain", "the mill", "a letter", "the garden")
VERBS = ("passes", "rests near", "turns to", "waits for", "leads past", "belongs to", "looks at", "leaves")
SIGNS = ("=", ": ", " is ", " -> ", "? ")                      # between a name and what belongs to it
KEYS = 8                                # letters that needles are named by, or more for more needles
Pair = tuple[str, str]


@dataclass(frozen=True)
class Mapping:
    """`shots` questions about a random map from `keys` letters to `labels` digits, a new map for every document."""

    documents: int = 6000               # of the training split; a tenth of it for each of the others
    seed: int = 0
    keys: int = 8
    labels: int = 10
    shots: int = 32                     # lines of a document

    def __post_init__(self) -> None:
        if not (1 <= self.keys <= 26 and 2 <= self.labels <= 10 and self.shots >= 1):
            raise RequestError(f"toy:mapping has 1 to 26 keys, 2 to 10 labels and at least 1 shot, not {self}")

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """The lines of one document."""
        values = rng.integers(0, self.labels, self.keys)
        return [(ascii_lowercase[i], str(values[i])) for i in rng.integers(0, self.keys, self.shots)]


@dataclass(frozen=True)
class Arithmetic:
    """Sums and differences of numbers of at most `digits` digits; one problem in ten is kept for each other split."""

    documents: int = 6000
    seed: int = 0
    digits: int = 2
    shots: int = 24

    def __post_init__(self) -> None:
        if not (1 <= self.digits <= 9 and self.shots >= 1):
            raise RequestError(f"toy:arithmetic has 1 to 9 digits and at least 1 shot, not {self}")

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """The lines of one document, all of the split's own problems."""
        found: list[Pair] = []
        while len(found) < self.shots:
            a, b = (int(n) for n in rng.integers(0, 10**self.digits, 2))
            sign = "+-"[int(rng.integers(2))]
            if self.split_of(a, sign, b) == split:
                found.append((f"{a}{sign}{b}=", str(a + b if sign == "+" else a - b)))
        return found

    def split_of(self, a: int, sign: str, b: int) -> str:
        """Where a problem belongs, by its hash."""
        place = seed_of(self.seed, "problem", a, sign, b) % 10
        return "test" if place == 0 else "validation" if place == 1 else "train"


@dataclass(frozen=True)
class Tutor:
    """A sum, its columns as hints from the ones up, each with what was carried, then the answer.

    Training documents have so many hints by chance, none to all; the others have all, so that as many as are wanted can
    be shown. Splits are those of Arithmetic.
    """

    documents: int = 6000
    seed: int = 0
    digits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise RequestError(f"toy:tutor has 1 to 9 digits, not {self}")

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """The hints of one sum, and its answer."""
        while True:
            a, b = (int(n) for n in rng.integers(10**(self.digits - 1), 10**self.digits, 2))
            if Arithmetic(seed=self.seed).split_of(a, "+", b) == split:
                break
        shown = int(rng.integers(self.digits + 1)) if split == "train" else self.digits
        return [*hints(a, b)[:shown], (f"{a}+{b}=", str(a + b))]


def hints(a: int, b: int) -> list[Pair]:
    """The columns of a sum, from the ones up: `7+8=15`, and above it with the carry, `3+4+1=8`."""
    found, carry = list[Pair](), 0
    for n, (x, y) in enumerate(zip(str(a)[::-1], str(b)[::-1], strict=True), 1):
        total = int(x) + int(y) + carry
        found.append((f"{a}+{b} hint {n}:", f"{x}+{y}{'+1' if carry else ''}={total}"))
        carry = total // 10
    return found


@dataclass(frozen=True)
class Needle:
    """`needles` codes at random depths among filler; twice as many questions in training, one in other splits."""

    documents: int = 32_000             # so many that none is read twice in 1,000 steps of 32
    seed: int = 0
    length: int = 128                   # characters of a document, at most: as much filler as that allows
    needles: int = 3
    digits: int = 3

    def __post_init__(self) -> None:
        least = self.needles * 3 * (len("code K.\n") + self.digits)
        if not (1 <= self.needles <= 26 and 1 <= self.digits <= 18 and self.length >= least):
            raise RequestError(f"toy:needle has 1 to 26 needles of 1 to 18 digits, and these need a length of at least "
                               f"{least}, not {self.length}")

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """The text with the first question and its code; in training the other questions and codes too."""
        names = [ascii_uppercase[i] for i in rng.choice(max(self.needles, KEYS), self.needles, replace=False)]
        every = self.needles * self.digits                     # up to ten digits are all different, so that the digit
        drawn = rng.permutation(10)[:every] if every <= 10 else rng.integers(0, 10, every)     # before tells the next
        codes = ["".join(map(str, row)) for row in drawn.reshape(self.needles, self.digits)]
        asked = [(f"code {name}", code) for name, code in zip(names, codes, strict=True)]
        # With repetition: asked once each, the last code is known without its key, and keys were not learned.
        asked = [asked[i] for i in rng.integers(0, self.needles, 2 * self.needles)] if split == "train" else asked[:1]
        lines = [f"code {name}{code}.\n" for name, code in zip(names, codes, strict=True)]
        room = self.length - len("".join(lines) + text_of(asked))
        text: list[str] = []
        while True:
            filler = f"{SUBJECTS[rng.integers(8)]} {VERBS[rng.integers(8)]} {SUBJECTS[rng.integers(8)]}.\n"
            if (room := room - len(filler)) < 0:
                break
            text.append(filler)
        for which in rng.permutation(self.needles):
            text.insert(int(rng.integers(0, len(text) + 1)), lines[which])
        return [("".join(text) + asked[0][0], asked[0][1]), *asked[1:]]


@dataclass(frozen=True)
class Copies:
    """Random words written once more, line for line, or those that stand behind names, asked for by the name.

    A question has its own sign behind the name, so that a name is found whatever follows it.
    """

    documents: int = 40_000
    seed: int = 0
    length: int = 96                    # characters of a document, at most

    def __post_init__(self) -> None:
        if self.length < 96:
            raise RequestError(f"toy:copies needs a length of at least 96, not {self.length}")

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """Questions and what is to be copied: as many as fit in training, one in other splits."""
        told, asked = (SIGNS[i] for i in rng.integers(0, len(SIGNS), 2))
        found, text, room = list[Pair](), "", self.length
        drawn: dict[str, str] = {}
        if rng.random() < 0.6:
            most = rng.integers(2, max(4, self.length // 32) + 1)
            while len(drawn) < most and len(text) < self.length // 2:
                name, value = _letters(rng), _word(rng)
                if name not in drawn:
                    drawn[name], text = value, f"{text}{name}{told}{value}\n"
        names = list(drawn)
        while True:
            if names:
                name = names[rng.integers(len(names))]
                question, answer = f"{name}{asked}", drawn[name]
            else:
                answer = " ".join(_word(rng) for _ in range(rng.integers(1, 5)))
                question = f"{answer}{asked}"
            if (room := room - len(f"{text}{question}{answer}\n")) < 0:
                return found if split == "train" else found[:1]
            found.append((text + question, answer))
            text = ""


def _letters(rng: np.random.Generator) -> str:
    """Two to eight random small letters."""
    return "".join(ascii_lowercase[i] for i in rng.integers(0, 26, rng.integers(2, 9)))


def _word(rng: np.random.Generator) -> str:
    """Random letters, or one to four digits."""
    return _letters(rng) if rng.random() < 0.6 else str(rng.integers(0, 10**rng.integers(1, 5)))


class Kind(Protocol):
    """What a kind of toy text is: fields, and the pairs of one document."""

    @property
    def documents(self) -> int:
        """Documents of the training split."""
        ...

    @property
    def seed(self) -> int:
        """Names everything drawn."""
        ...

    def pairs(self, rng: np.random.Generator, split: str) -> list[Pair]:
        """Questions and answers of one document; the last is its own question, those before it worked examples."""
        ...


KINDS: dict[str, type[Kind]] = {"mapping": Mapping, "arithmetic": Arithmetic, "tutor": Tutor, "needle": Needle,
                                "copies": Copies}


def make(name: str, out: Path, fields: Fields[str, Any] | None = None) -> Corpus:
    """The corpus of one kind in the folder `out`, its rows in `out`.rows; RequestError names the nearest kind."""
    kind = kind_of(name, fields or {})
    return made(out, "toy text", LICENCE, lambda split, folder: rows(kind, split))


def kind_of(name: str, fields: Fields[str, Any]) -> Kind:
    """A kind with its fields set; RequestError lists every mistake."""
    if name not in KINDS:
        raise RequestError(f"no toy text {name!r}; {nearest(name, KINDS)}")
    return from_dict(KINDS[name], fields)


def rows(kind: Kind, split: str) -> Iterator[Row]:
    """The rows of one split."""
    count = kind.documents if split == "train" else max(1, kind.documents // 10)
    return (_row(kind, split, n) for n in range(count))


def text_of(pairs: list[Pair]) -> str:
    """Questions with their answers, a line end after each."""
    return "".join(f"{question}{answer}\n" for question, answer in pairs)


def _row(kind: Kind, split: str, number: int) -> Row:
    shape = json.dumps({key: value for key, value in vars(kind).items() if key != "documents"})
    rng = np.random.default_rng(seed_of("toy", type(kind).__name__, shape, split, number))
    pairs = kind.pairs(rng, split)
    *shots, (question, answer) = pairs
    return {"input": question, "target": answer, "shots": shots, "text": text_of(pairs)}
