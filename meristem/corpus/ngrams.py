"""Hashes of all word n-grams of a text, in numpy over its UTF-8 bytes: no Python loop over words.

A word is a run of letters, digits, underscores and non-ASCII bytes; case and punctuation are ignored, as in GPT-3's
overlap test (Brown et al. 2020, appendix C). Scripts without spaces make one word of a sentence. Deduplication takes
n = 5, contamination n = 13. `hashes("the cat sat", 2)` gives two numbers: "the cat" and "cat sat".
"""
import string

import numpy as np
from jaxtyping import UInt64

from meristem.core.random import seed_of

ODD = np.uint64(0x9E3779B97F4A7C15)
LONGEST = 64            # bytes of a word before the powers repeat: such words collide only on purpose


def _letters() -> np.ndarray:
    """A random number for each byte that may stand in a word, 0 for the others; upper case equals lower case."""
    table = np.array([seed_of("letter", b) for b in range(256)], dtype=np.uint64)
    inside = set((string.ascii_letters + string.digits + "_").encode()) | set(range(128, 256))
    table[[b for b in range(256) if b not in inside]] = 0
    table[list(string.ascii_uppercase.encode())] = table[list(string.ascii_lowercase.encode())]
    return table


def _powers(n: int) -> np.ndarray:
    """1, ODD, ODD^2, ... modulo 2^64."""
    out = np.ones(n, dtype=np.uint64)
    out[1:] = ODD
    return np.multiply.accumulate(out)


LETTERS, POWERS = _letters(), _powers(LONGEST)


def hashes(text: str, n: int) -> UInt64[np.ndarray, "grams"]:
    """Hashes of the word n-grams of `text`, in order; empty when the text has fewer than n words."""
    words = word_hashes(text)
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    grams = words[: len(words) - n + 1].copy()
    for k, power in enumerate(_powers(n)[1:], start=1):
        grams += words[k: len(words) - n + 1 + k] * power
    return mix(grams)


def word_hashes(text: str) -> UInt64[np.ndarray, "words"]:
    """Hashes of the words of `text`, in order: sum of letter * ODD^position in the word, then mixed."""
    letters = LETTERS[np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)]
    where = np.flatnonzero(letters)
    if not len(where):
        return np.empty(0, dtype=np.uint64)
    letters = letters[where]
    starts = np.flatnonzero(np.diff(where, prepend=-2) > 1)    # first letter of each word, counted in letters
    position = np.arange(len(where)) - np.repeat(starts, np.diff(starts, append=len(where)))
    letters *= POWERS[position % LONGEST]
    return mix(np.add.reduceat(letters, starts))


def mix(x: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """A bijection of uint64 that spreads every bit (MurmurHash3's finaliser, Appleby 2011), in place."""
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        x ^= x >> np.uint64(33)
        x *= factor
    x ^= x >> np.uint64(33)
    return x
