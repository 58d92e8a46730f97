"""Near duplicates by MinHash and locality-sensitive hashing, every one of them verified against the text that is kept.

MinHash (Broder 1997): the share of equal entries of two signatures estimates the Jaccard similarity J of their 5-word
shingles. 20 bands of 6 rows make a pair of J = 0.8 meet in some band with probability 0.998, one of 0.7 with 0.92.
A pair that met is judged by its true J, so no text is dropped without a twin that is at least 0.7 like it and stays.

    seen = Kept(shingles_of=lambda index: ngrams.hashes(text_of(index), SHINGLE))
    twin = seen.twin(index, signature)          # (kept index, J) or None, in which case `index` is kept from now on
"""
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt32, UInt64

from meristem.core.random import seed_of
from meristem.corpus import ngrams

SHINGLE = 5                             # words
BANDS, ROWS = 20, 6
THRESHOLD = 0.7                         # true Jaccard similarity from which a text is a duplicate
HOPELESS = 0.5                          # estimates below are not verified: 0.7 would be 4.8 standard errors away
TRIES = 8                               # best candidates that are verified: a twin of 0.8 is among them even where
                                        # thousands of texts share a template (their best estimates stay below 0.75)
BLOCK = 1024                            # shingles hashed at once: 120 x 1024 x 4 bytes stay in the second-level cache

_generator = np.random.default_rng(seed_of("minhash"))
FACTORS = _generator.integers(0, 1 << 32, (BANDS * ROWS, 1), dtype=np.uint32) | np.uint32(1)
OFFSETS = _generator.integers(0, 1 << 32, (BANDS * ROWS, 1), dtype=np.uint32)


def signature(shingles: UInt64[np.ndarray, "n"]) -> UInt32[np.ndarray, "120"]:
    """The least value of each of BANDS * ROWS hash functions over `shingles`, which may repeat."""
    least = np.full(BANDS * ROWS, 0xFFFFFFFF, dtype=np.uint32)
    short = (shingles >> np.uint64(32)).astype(np.uint32)
    for start in range(0, len(short), BLOCK):
        values = FACTORS * short[start: start + BLOCK]
        values += OFFSETS
        np.minimum(least, values.min(axis=1), out=least)
    return least


def jaccard(a: UInt64[np.ndarray, "n"], b: UInt64[np.ndarray, "m"]) -> float:
    """Jaccard similarity of two sets of hashes, each sorted and without repeats."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if len(a) or len(b) else 0.0


class Kept:
    """The texts kept so far, found again by their bands. Memory: about 2 kB a text, and no text."""

    def __init__(self, shingles_of: Callable[[int], np.ndarray]) -> None:
        self.shingles_of = shingles_of
        self.bands: dict[int, list[int]] = {}
        self.signatures: dict[int, np.ndarray] = {}

    def twin(self, index: int, own: UInt32[np.ndarray, "120"]) -> tuple[int, float] | None:
        """(index, J) of a kept text that makes `index`, with signature `own`, a duplicate; None, and it is kept."""
        keys = self._keys(own)
        candidates = sorted({other for key in keys for other in self.bands.get(key, ())})
        if candidates:
            estimates = (np.stack([self.signatures[c] for c in candidates]) == own).mean(axis=1)
            shingles = np.unique(self.shingles_of(index))
            for which in np.argsort(-estimates, kind="stable")[:TRIES]:
                if estimates[which] < HOPELESS:
                    break
                similarity = jaccard(shingles, np.unique(self.shingles_of(candidates[which])))
                if similarity >= THRESHOLD:
                    return candidates[which], similarity
        if len(keys):
            self.signatures[index] = own
        for key in keys:
            self.bands.setdefault(key, []).append(index)
        return None

    @staticmethod
    def _keys(own: np.ndarray) -> list[int]:
        """One hash a band; none for a text too short to have shingles."""
        if own.min() == own.max() == 0xFFFFFFFF:
            return []
        rows = own.reshape(BANDS, ROWS).astype(np.uint64)
        mixed = np.arange(1, BANDS + 1, dtype=np.uint64)
        for column in rows.T:
            mixed = ngrams.mix(mixed * ngrams.ODD + column)
        return mixed.tolist()
