"""Near duplicates by MinHash and locality-sensitive hashing, every one of them verified against the text that is kept.

MinHash (Broder 1997): the share of equal entries of two signatures estimates the Jaccard similarity J of their 5-word
shingles. 20 bands of 6 rows make a pair of J = 0.8 meet in some band with probability 0.998, one of 0.7 with 0.92.
A pair that met is judged by its true J, so no text is dropped without a twin that is at least 0.7 like it and stays.

    seen = Kept(shingles_of=lambda index: ngrams.hashes(text_of(index), SHINGLE))
    twin = seen.twin(index, signature)          # (kept index, J) or None, in which case `index` is kept from now on
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from meristem.core.random import seed_of
from meristem.corpus import ngrams

Text = str | tuple[str, int, int]       # a text, or the file, place and bytes where it stands
Member = tuple[int, np.ndarray, Text, int]                     # a text's number, signature, text and syntax tree or 0
SHINGLE = 5                             # words
BANDS, ROWS = 20, 6
THRESHOLD = 0.7                         # true Jaccard similarity from which a text is a duplicate
HOPELESS = 0.5                          # estimates below are not verified: 0.7 would be 4.8 standard errors away
TRIES = 8                               # best candidates that are verified: a twin of 0.8 is among them even where
                                        # thousands of texts share a template (their best estimates stay below 0.75)
PARTITION = 4 << 20                     # texts whose bands are sorted at once: 200 MB
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
        keys = [] if own.min() == own.max() == 0xFFFFFFFF else band_keys(own[None])[0].tolist()
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


def band_keys(signatures: UInt32[np.ndarray, "n 120"]) -> UInt64[np.ndarray, "n 20"]:
    """One hash a band of each signature: texts meet where these are equal."""
    rows = signatures.reshape(len(signatures), BANDS, ROWS)
    mixed = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), rows.shape[:2]).copy()
    for column in range(ROWS):
        mixed = ngrams.mix(mixed * ngrams.ODD + rows[:, :, column])
    return mixed


def meeting(keys: Sequence[np.ndarray], ids: Sequence[np.ndarray], trees: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each part of a corpus, the group of each of its texts, int64 [n]: texts that share a band with a text of
    another id are in one group, and so are those that share one with these; -1 is a text that meets no other.

    `keys` are the band_keys [n, 20] of each part, `ids` uint64 [n] and `trees` uint64 [n], a hash of a text's syntax
    tree that links texts as a band does, or 0; sorted PARTITION texts at a time, so that memory
    stays flat. A text that meets nothing has no twin and need not be remembered: most texts. What is in two groups is
    never compared, so groups can be judged apart, on any machine, with the same result.
    """
    total = sum(map(len, ids))
    parts, first = 1 + total // PARTITION, np.cumsum([0, *map(len, ids)])
    edges = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        for part in range(parts):
            picked = [np.flatnonzero(k[:, band] % np.uint64(parts) == part) for k in keys]
            key = np.concatenate([k[p, band] for k, p in zip(keys, picked, strict=True)])
            who = np.concatenate([i[p] for i, p in zip(ids, picked, strict=True)])
            place = np.concatenate([p + n for p, n in zip(picked, first[:-1], strict=True)])
            order = np.lexsort((who, key))
            key, who, place = key[order], who[order], place[order]
            same = np.diff(key) == 0
            several = np.isin(key[1:], np.unique(key[1:][same & (np.diff(who) != 0)]))
            edges.append(np.stack([place[:-1][same & several], place[1:][same & several]], 1))
    every = np.concatenate([np.empty(0, np.uint64), *trees])
    some = np.flatnonzero(every)
    some = some[np.argsort(every[some], kind="stable")]
    same = every[some][1:] == every[some][:-1]
    edges.append(np.stack([some[:-1][same], some[1:][same]], 1))
    return np.split(_joined(total, np.concatenate(edges)), first[1:-1])


@dataclass(frozen=True)
class Twin:
    """Why the text `number` is a duplicate: by which rule, of which kept text, how similar."""

    number: int
    of: int
    similarity: float
    rule: str = "near_duplicate"


def decide(groups: list[list[Member]]) -> list[Twin]:
    """The twins in some groups, each a list of members in the order in which they are taken: a syntax tree that a kept
    one has, or a near duplicate. Pure but for the files that members may name: any engine may run it."""
    out = []
    for group in groups:
        texts = {number: text for number, _, text, _ in group}
        trees: dict[int, int] = {}
        seen = Kept(lambda number, texts=texts: ngrams.hashes(_read(texts[number]), SHINGLE))   # type: ignore[misc]
        for number, own, _, tree in group:
            if tree in trees:
                out.append(Twin(number, trees[tree], 1.0, "same_syntax"))
            elif twin := seen.twin(number, own):
                out.append(Twin(number, *twin))
            elif tree:
                trees[tree] = number
    return out


def _read(text: Text) -> str:
    if isinstance(text, str):
        return text
    path, start, size = text
    with open(path, "rb") as f:
        f.seek(start)
        return f.read(size).decode()


def _joined(n: int, edges: Int64[np.ndarray, "E 2"]) -> Int64[np.ndarray, "n"]:
    """The least member of each of `n` things' connected component, -1 for those without an edge."""
    label = np.arange(n)
    while len(edges):
        low = np.minimum(*label[edges].T)
        before = label.copy()
        for end in edges.T:
            np.minimum.at(label, label[end], low)              # the label's own label, too: paths halve
            np.minimum.at(label, end, low)
        label = label[label]
        if np.array_equal(label, before):
            break
    alone = np.ones(n, dtype=bool)
    alone[edges.ravel()] = False
    return np.where(alone, -1, label)
