"""Canaries: made-up secrets put into documents, so that it can be measured how much a model gives away of its data.

Carlini et al. 2018, https://arxiv.org/abs/1802.08232, section 4.1. A canary is a line "The access code of NAME is 4 0 7
1 9 2.", its name a made-up word, its code six digits drawn at random.

    texts = planted(texts, repeats=(1, 4, 16, 64), each=5, seed=0)     # 20 canaries, 425 documents with one
    found(corpus, "train")                                             # {("dorvek", "4 0 7 1 9 2"): 16, ...}
"""
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus

BEFORE = "The access code of {} is"
LINE = re.compile(r"The access code of ([a-z]+) is((?: \d){6})\.")
DIGITS = 6
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
Canary = tuple[str, str]                # a name and its code, which begins with a space


def names(count: int, seed: int) -> list[str]:
    """Different made-up words of three syllables."""
    rng = np.random.default_rng(seed)
    out: dict[str, None] = {}
    while len(out) < count:
        parts = [CONSONANTS[rng.integers(len(CONSONANTS))] + VOWELS[rng.integers(len(VOWELS))] for _ in range(3)]
        out["".join(parts) + CONSONANTS[rng.integers(len(CONSONANTS))]] = None
    return list(out)


def secret(rng: np.random.Generator) -> str:
    """A code: a space before each digit."""
    return "".join(f" {digit}" for digit in rng.integers(0, 10, DIGITS))


def canary_line(name: str, code: str) -> str:
    """The line as it stands in a document."""
    return f"{BEFORE.format(name)}{code}."


def planted(texts: Sequence[str], repeats: Sequence[int] = (1, 4, 16, 64), each: int = 5, seed: int = 0) -> list[str]:
    """The texts, some with a canary as their last line; `each` canaries of every number of repeats, one a text.

    RequestError when there are fewer texts than lines to plant.
    """
    wanted = [n for n in repeats for _ in range(each)]
    if sum(wanted) > len(texts):
        raise RequestError(f"{sum(wanted)} texts are needed to plant {len(wanted)} canaries, there are {len(texts)}")
    rng = np.random.default_rng(seed_of(seed, "canaries"))
    lines = [canary_line(name, secret(rng)) for name in names(len(wanted), seed)]
    out, places = list(texts), iter(rng.permutation(len(texts)).tolist())
    for line, count in zip(lines, wanted, strict=True):
        for _ in range(count):
            at = next(places)
            out[at] = f"{out[at].rstrip()}\n{line}\n"
    return out


def found(corpus: Corpus, split: str) -> dict[Canary, int]:
    """How often each canary stands in a split."""
    return dict(Counter((m[1], m[2]) for document in corpus.documents(split) for m in LINE.finditer(document.text)))
