"""Interval formulas and paired tests against scipy, within 2 %, and what grouping does to them."""
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.evals import statistics

ALONE = [str(i) for i in range(1000)]


@given(st.integers(1, 2000), st.data())
def test_wilson_equals_scipy(n, data):
    k = data.draw(st.integers(0, n))
    ours, theirs = statistics.wilson(k, n), scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_refuses_nothing():
    with pytest.raises(RequestError):
        statistics.wilson(0, 0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_the_binomial_test(won, lost):
    ours, theirs = [1.0] * won + [0.0] * lost + [1.0] * 5, [0.0] * won + [1.0] * lost + [1.0] * 5
    expected = scipy.stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    gap = statistics.mcnemar(ours, theirs)
    assert gap.p == pytest.approx(expected, rel=1e-9)
    assert gap.value == pytest.approx((won - lost) / len(ours))


def test_bootstrap_of_a_ratio_agrees_with_scipy():
    rng = np.random.default_rng(0)
    weights = rng.integers(500, 4000, 80).astype(float)
    values = weights * rng.normal(2.0, 0.4, 80)
    ours = statistics.bootstrap(list(values), list(weights), ALONE[:80], seed=1)
    theirs = scipy.stats.bootstrap((values, weights), lambda v, w, axis: v.sum(axis) / w.sum(axis), paired=True,
                                   method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.06)


def test_permutation_agrees_with_scipy():
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.35, 1, 40), rng.normal(0, 1, 40)
    expected = scipy.stats.permutation_test((ours, theirs), lambda a, b, axis: (a - b).mean(axis), n_resamples=50_000,
                                            permutation_type="samples", rng=4).pvalue
    gap = statistics.permutation(list(ours), list(theirs), [1.0] * 40, ALONE[:40], seed=5)
    assert gap.p == pytest.approx(expected, abs=0.02)
    assert gap.value == pytest.approx((ours - theirs).mean())
    assert gap.interval.low < gap.value < gap.interval.high


def test_items_of_one_document_count_as_one():
    """Ten copies of each answer carry no more evidence than one: the intervals must not shrink."""
    rng = np.random.default_rng(6)
    answers = rng.integers(0, 2, 50).astype(float)
    copies, groups = np.repeat(answers, 10), np.repeat(ALONE[:50], 10)
    size = statistics.effective_items(list(copies), list(groups))
    assert size == pytest.approx(50, rel=0.05)
    alone = statistics.bootstrap(list(answers), [1.0] * 50, ALONE[:50], seed=7)
    grouped = statistics.bootstrap(list(copies), [1.0] * 500, list(groups), seed=7)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    gap = statistics.permutation(list(copies), [0.0] * 500, [1.0] * 500, list(groups), seed=8)
    assert gap.value == pytest.approx(answers.mean())


def test_independent_items_keep_their_number():
    values = np.random.default_rng(9).integers(0, 2, 400).astype(float)
    assert statistics.effective_items(list(values), ALONE[:400]) == 400
    pairs = [str(i // 2) for i in range(400)]
    assert statistics.effective_items(list(values), pairs) > 330


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 2**31))
def test_the_grouped_interval_is_never_narrower(p, seed):
    rng = np.random.default_rng(seed)
    values = (rng.random(60) < p).astype(float)
    groups = [str(i // 3) for i in range(60)]
    plain = statistics.wilson(int(values.sum()), 60)
    grouped = statistics.wilson(int(values.sum()), 60, statistics.effective_items(list(values), groups))
    assert grouped.high - grouped.low >= plain.high - plain.low - 1e-12
