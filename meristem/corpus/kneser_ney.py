"""Interpolated modified Kneser-Ney n-grams over token ids: the baseline every language score is printed beside.

Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 4.1.6 (equation 26):
    p(w | h) = max(c(hw) - D(c(hw)), 0) / sum_w' c(hw') + gamma(h) p(w | h')        h' = h without its oldest word
where below the highest order c counts the distinct words seen before hw (continuation counts), D is one of three
discounts estimated from the counts of counts, gamma gives the discounted mass to the shorter history, and the unigrams
are interpolated with 1/V. Documents are padded on the left with end tokens, so no history crosses a border.

Everything is sorted arrays: a k-gram is named by its rank, its key is rank(first k-1 words) * V + last word, and a
query is a binary search per order. 10 M tokens fit in about 10 s and under 1 GB on one core.

    model = KneserNey.fit(tokens, vocab=8192, end=0)
    nats = -model.logprobs(test_tokens).mean()
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meristem.core.errors import RequestError

FALLBACK = (0.5, 1.0, 1.5)              # discounts where a corpus is too small to estimate them (KenLM's choice)


@dataclass(frozen=True)
class Grams:
    """The k-grams of one order. `scale` and `gamma` go by the rank of the history; the last entry is "unseen"."""

    keys: np.ndarray                    # int64, sorted
    mass: np.ndarray                    # float32, max(count - discount, 0)
    scale: np.ndarray                   # float64, 1 / sum of counts after the history
    gamma: np.ndarray                   # float64, weight of the shorter history


@dataclass(frozen=True)
class KneserNey:
    """A fitted model; `base` is the unigram distribution [V], `orders` holds the 2-grams, 3-grams, ..."""

    vocab: int
    end: int
    base: np.ndarray
    orders: tuple[Grams, ...]

    @classmethod
    def fit(cls, tokens: np.ndarray, vocab: int, end: int, order: int = 5) -> "KneserNey":
        """Count and smooth a stream of documents separated by `end`; RequestError on ids outside the vocabulary."""
        tokens = np.asarray(tokens)
        if tokens.size == 0 or int(tokens.min()) < 0 or int(tokens.max()) >= vocab or order < 2:
            raise RequestError(f"a Kneser-Ney model needs order >= 2 and at least one token, all of them below {vocab}")
        stream, event = _pad(tokens, end, order)
        ids, size = stream, vocab                               # the rank of the k-gram that ends at each position
        keys, counts = [np.arange(vocab, dtype=np.int64)], []
        for k in range(2, order + 1):
            table, first, longer = _rank(_before(ids).astype(np.int64) * vocab + stream)
            seen = np.bincount(longer[event], minlength=len(table))
            counts.append(np.bincount(ids[first[seen > 0]], minlength=size))   # continuation counts of order k-1
            if k == order:
                counts.append(seen)
            keys.append(table)
            ids, size = longer, len(table)
        mass, total, gamma = _discount(counts[0], np.zeros(vocab, dtype=np.int64), 1)
        base = mass / total[0] + gamma[0] / vocab
        orders = []
        for table, count, histories in zip(keys[1:], counts[1:], [len(t) for t in keys[:-1]], strict=True):
            mass, total, gamma = _discount(count, table // vocab, histories)
            scale = np.divide(1.0, total, out=np.zeros(histories), where=total > 0)
            orders.append(Grams(table, mass.astype(np.float32), np.append(scale, 0.0), np.append(gamma, 1.0)))
        return cls(vocab, end, base, tuple(orders))

    @property
    def order(self) -> int:
        """The longest run of tokens the model counts."""
        return len(self.orders) + 1

    def logprobs(self, tokens: np.ndarray) -> np.ndarray:
        """Natural log p of every token [N] given those before it in its document; `end` tokens separate documents."""
        stream, event = _pad(np.asarray(tokens), self.end, self.order)
        ids, p = stream.astype(np.int64), self.base[stream]
        for grams in self.orders:
            history = _before(ids)
            wanted = np.where(history < 0, -1, history * self.vocab + stream)
            place = np.minimum(np.searchsorted(grams.keys, wanted), len(grams.keys) - 1)
            found = grams.keys[place] == wanted
            p = np.where(found, grams.mass[place], 0.0) * grams.scale[history] + grams.gamma[history] * p
            ids = np.where(found, place, -1)
        return np.log(p[event])

    def distribution(self, prefix: Sequence[int] | np.ndarray) -> np.ndarray:
        """p of every next token [V] after `prefix`, which is read back to its last `end` and padded there."""
        history = self._history(prefix)
        p = self.base.copy()
        for k, grams in enumerate(self.orders, start=2):
            rank = self._rank_of(history[len(history) - k + 1:])
            if rank < 0:
                break                                           # a longer history is unseen too
            low, high = np.searchsorted(grams.keys, (rank * self.vocab, (rank + 1) * self.vocab))
            p *= grams.gamma[rank]
            p[grams.keys[low:high] - rank * self.vocab] += grams.mass[low:high] * grams.scale[rank]
        return p

    def sample(self, prefix: Sequence[int] | np.ndarray, length: int, rng: np.random.Generator,
               temperature: float = 1.0) -> np.ndarray:
        """Up to `length` tokens after `prefix`, stopping after an `end` (kept); temperature 0 is greedy."""
        text = self._history(prefix)
        out: list[int] = []
        while len(out) < length and (not out or out[-1] != self.end):
            p = self.distribution(text)
            if temperature > 0:
                p = p ** (1 / temperature)
                cumulative = np.cumsum(p)
                token = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            else:
                token = int(p.argmax())
            out.append(token)
            text = [*text[1:], token]
        return np.array(out, dtype=np.int32)

    def _history(self, prefix: Sequence[int] | np.ndarray) -> list[int]:
        """The last order - 1 tokens, with everything up to the last `end` replaced by `end`."""
        tail = [int(t) for t in prefix[-(self.order - 1):]]
        if self.end in tail:
            tail = tail[len(tail) - tail[::-1].index(self.end):]
        return [self.end] * (self.order - 1 - len(tail)) + tail

    def _rank_of(self, gram: Sequence[int]) -> int:
        rank = gram[0]
        for grams, token in zip(self.orders, gram[1:], strict=False):
            wanted = rank * self.vocab + token
            rank = int(np.searchsorted(grams.keys, wanted))
            if rank == len(grams.keys) or grams.keys[rank] != wanted:
                return -1
        return rank


def _pad(tokens: np.ndarray, end: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The stream with order - 1 end tokens before each document, and which positions are real tokens."""
    starts = np.flatnonzero(tokens[:-1] == end) + 1
    pads = np.zeros(len(tokens), dtype=np.int64)
    pads[0] = order - 1
    pads[starts] = order - 1
    where = np.arange(len(tokens)) + np.cumsum(pads)
    stream = np.full(int(where[-1]) + 1, end, dtype=np.int32)
    stream[where] = tokens
    event = np.zeros(len(stream), dtype=bool)
    event[where] = True
    return stream, event


def _before(ids: np.ndarray) -> np.ndarray:
    """The ids one position earlier (the first position, a pad, is its own history: it is never an event)."""
    return np.concatenate([ids[:1], ids[:-1]])


def _rank(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct keys, a position of each, and the rank (int32) at every position."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    ranks = np.empty(len(keys), dtype=np.int32)
    ranks[order] = np.cumsum(new, dtype=np.int32) - 1
    return ordered[new], order[new], ranks


def _discount(counts: np.ndarray, histories: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discounted counts, total count by history, and the share of it that the discounts set free (1 where unseen)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    discounts = FALLBACK
    if (n[1:5] > 0).all():
        y = n[1] / (n[1] + 2 * n[2])
        fitted = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
        discounts = fitted if all(0 < d <= k for k, d in enumerate(fitted, start=1)) else FALLBACK
    off = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    total = np.bincount(histories, weights=counts, minlength=size)
    freed = np.bincount(histories, weights=off, minlength=size)
    return counts - off, total, np.divide(freed, total, out=np.ones(size), where=total > 0)
