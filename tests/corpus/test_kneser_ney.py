"""The 5-gram against a dictionary implementation of Chen & Goodman's equation, and against its own axioms."""
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.corpus.kneser_ney import FALLBACK, KneserNey

END = 0


class Slow:
    """Modified Kneser-Ney by dictionaries, one gram at a time, as the paper writes it."""

    def __init__(self, documents, vocab, order):
        self.vocab, self.order = vocab, order
        raw = [Counter() for _ in range(order + 1)]
        for d in documents:
            row = [END] * (order - 1) + d + [END]
            for i in range(order - 1, len(row)):
                for k in range(1, order + 1):
                    raw[k][tuple(row[i - k + 1:i + 1])] += 1
        self.count = {order: raw[order]}
        for k in range(1, order):
            self.count[k] = Counter(g[1:] for g in raw[k + 1])
        self.after, self.discount = {}, {}
        for k, counts in self.count.items():
            n = Counter(counts.values())
            self.discount[k] = FALLBACK
            if all(n[r] for r in (1, 2, 3, 4)):
                y = n[1] / (n[1] + 2 * n[2])
                d = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
                if all(0 < x <= r for r, x in enumerate(d, 1)):
                    self.discount[k] = d
            self.after[k] = defaultdict(list)
            for g, c in counts.items():
                self.after[k][g[:-1]].append(c)

    def p(self, history, word, k=None):
        k = self.order if k is None else k
        if k == 0:
            return 1 / self.vocab
        h = tuple(history[len(history) - k + 1:])
        seen = self.after[k].get(h)
        lower = self.p(history, word, k - 1)
        if not seen:
            return lower
        off = self.discount[k]
        c = self.count[k].get((*h, word), 0)
        gamma = sum(off[min(x, 3) - 1] for x in seen) / sum(seen)
        return (c - off[min(c, 3) - 1] if c else 0.0) / sum(seen) + gamma * lower


documents = st.lists(st.lists(st.integers(1, 6), min_size=0, max_size=30), min_size=1, max_size=12)


def stream(docs):
    return np.array([t for d in docs for t in [*d, END]], dtype=np.uint16)


@settings(max_examples=40, deadline=None)
@given(documents, documents, st.integers(2, 5))
def test_equals_the_dictionary_implementation(train, test, order):
    fast, slow = KneserNey.fit(stream(train), 8, END, order), Slow(train, 8, order)
    expected = []
    for d in test:
        row = [END] * (order - 1) + d + [END]
        expected += [slow.p(row[:i], row[i]) for i in range(order - 1, len(row))]
    np.testing.assert_allclose(np.exp(fast.logprobs(stream(test))), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(documents, st.lists(st.integers(0, 7), max_size=6))
def test_a_distribution_sums_to_one_and_equals_logprobs(train, prefix):
    model = KneserNey.fit(stream(train), 8, END)
    p = model.distribution(prefix)
    assert p.min() > 0 and p.sum() == pytest.approx(1, abs=1e-6)
    by_row = [np.exp(model.logprobs(np.array([*prefix, w]))[-1]) for w in range(8)]
    np.testing.assert_allclose(p, by_row, rtol=1e-6)


def test_large_vocabulary_sums_to_one_for_seen_and_unseen_histories():
    rng = np.random.default_rng(0)
    tokens = (rng.zipf(1.3, 60_000) % 4096).astype(np.uint16)
    model = KneserNey.fit(tokens, 4096, END)
    for history in (tokens[100:104], [4095, 4095, 4095, 4094], [END], []):
        assert model.distribution(history).sum() == pytest.approx(1, abs=1e-6)


def test_histories_do_not_cross_documents():
    model = KneserNey.fit(stream([[1, 2, 3], [1, 2, 4]] * 20), 8, END)
    joined = model.logprobs(np.array([1, 2, 3, END, 1, 2, 4, END]))
    apart = np.concatenate([model.logprobs(np.array([1, 2, 3, END])), model.logprobs(np.array([1, 2, 4, END]))])
    np.testing.assert_allclose(joined, apart)


def test_greedy_sampling_repeats_the_only_text_and_ends():
    model = KneserNey.fit(stream([[1, 2, 3, 4, 5]] * 50), 8, END)
    assert model.sample([1, 2], 10, np.random.default_rng(0), temperature=0).tolist() == [3, 4, 5, END]


def test_sampling_follows_the_distribution():
    model = KneserNey.fit(stream([[1, 2], [1, 3], [1, 3]] * 40), 8, END)
    rng = np.random.default_rng(1)
    drawn = np.bincount([int(model.sample([END, 1], 1, rng)[0]) for _ in range(4000)], minlength=8) / 4000
    assert np.abs(drawn - model.distribution([END, 1])).max() < 0.03


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(RequestError, match="below 8"):
        KneserNey.fit(np.array([1, 9]), 8, END)
