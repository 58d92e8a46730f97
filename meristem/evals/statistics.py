"""Intervals and paired tests of evaluation scores; none returns a bare number.

Every score here is a ratio of sums over items, sum(values) / sum(weights): a share of right answers has weights of one,
bits per byte has bits over bytes. Items of one document are not independent, so resampling takes whole groups, and a
share's Wilson interval uses the effective number of items n / deff (Kish's design effect; Miller 2024, "Adding error
bars to evals", section 2.2).

Wilson 1927; Efron 1979 (percentile bootstrap); McNemar 1947, exact form; sign-flip permutation (Good 2005, chapter 3).
The formulas agree with scipy within 2 % (tests/evals/test_statistics.py).
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from meristem.core.errors import RequestError

LEVEL = 0.95
RESAMPLES = 4000                        # percentile ends then move by about 1 % of the interval's width between seeds
BLOCK = 1 << 22                         # most numbers drawn at once (32 MB)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and how it was made."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs over the same items: the difference, its interval, and the p value of no difference."""

    value: float
    interval: Interval
    p: float
    test: str


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items with its interval: what judges without a model in hand return."""

    value: float
    interval: Interval
    n: int


def wilson(successes: int, n: int, effective: float | None = None) -> Interval:
    """Wilson's score interval of a share; `effective` (<= n) replaces n when items come in groups."""
    if not 0 <= successes <= n or n == 0:
        raise RequestError(f"{successes} successes of {n} is not a share; at least one item is needed")
    size = n if effective is None else min(float(n), effective)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    p = successes / n
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(p * (1 - p) / size + z * z / (4 * size * size))
    method = "wilson" if size == n else f"wilson, {n} items in groups worth {size:.0f}"
    return Interval(max(0.0, centre - half), min(1.0, centre + half), method)


def effective_items(values: Sequence[float], groups: Sequence[str]) -> float:
    """n over the design effect: how many independent items these grouped 0/1 values are worth."""
    x, which = np.asarray(values, dtype=np.float64), _number(groups)
    n, count = len(x), int(which.max()) + 1
    if count == n:
        return float(n)
    p = x.mean()
    if p in (0.0, 1.0) or count == 1:
        return float(count)                                     # no spread to estimate from: take the cautious end
    residual = np.bincount(which, weights=x - p)
    clustered = (residual**2).sum() * count / (count - 1) / n**2
    return float(np.clip(p * (1 - p) / clustered, min(count, n), n)) if clustered > 0 else float(n)


def bootstrap(values: Sequence[float], weights: Sequence[float], groups: Sequence[str], seed: int) -> Interval:
    """Percentile bootstrap of sum(values) / sum(weights), resampling whole groups."""
    top, bottom = _sums(values, groups), _sums(weights, groups)
    draws = _resample(np.stack([top, bottom], axis=1), seed)
    low, high = np.quantile(draws[:, 0] / draws[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), f"bootstrap over {len(top)} groups, {RESAMPLES} resamples")


def inflation(values: Sequence[float], weights: Sequence[float], keep: Sequence[bool] | np.ndarray,
              groups: Sequence[str], seed: int) -> tuple[float, Interval]:
    """All items' sum(values) / sum(weights) minus that of the items in `keep`, with a bootstrap over whole groups."""
    clean = np.asarray(keep, dtype=np.float64)
    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    draws = _resample(np.stack([_sums(x, groups) for x in (v, w, v * clean, w * clean)], axis=1), seed)
    draws = draws[(draws[:, 1] > 0) & (draws[:, 3] > 0)]
    gaps = draws[:, 0] / draws[:, 1] - draws[:, 2] / draws[:, 3]
    low, high = np.quantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    count = len(set(groups))
    return (float(v.sum() / w.sum() - (v * clean).sum() / (w * clean).sum()),
            Interval(float(low), float(high), f"bootstrap over {count} groups, {RESAMPLES} resamples"))


def placements(scores: Sequence[float], member: Sequence[bool]) -> list[float]:
    """A value for each item whose mean is the area under the ROC curve of `scores` for `member`, ties counted half.

    They are the curve's influence function, so that their mean's standard error is DeLong's (DeLong et al. 1988): the
    intervals of a mean are intervals of the area. RequestError unless both kinds are there.
    """
    x, ours = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    yes, no = x[ours], x[~ours]
    if not len(yes) or not len(no):
        raise RequestError("the area under a ROC curve needs items of both kinds")

    def below(of: np.ndarray, values: np.ndarray) -> np.ndarray:
        ordered = np.sort(of)
        left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
        return (left + right) / 2 / len(of)
    share = np.empty(len(x))
    share[ours], share[~ours] = below(no, yes), 1 - below(yes, no)
    area = share[ours].mean()
    scale = np.where(ours, len(x) / len(yes), len(x) / len(no))
    return list(area + (share - area) * scale)


def mcnemar(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Exact McNemar test of two models' right (1) and wrong (0) answers to the same independent items."""
    a, b = np.asarray(ours), np.asarray(theirs)
    won, lost = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    n, k = won + lost, min(won, lost)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    spread = math.sqrt(max(won + lost - (won - lost) ** 2 / len(a), 0.0)) / len(a)
    z, value = NormalDist().inv_cdf(0.5 + LEVEL / 2), (won - lost) / len(a)
    return Difference(value, Interval(value - z * spread, value + z * spread, "wald, paired"), p, "mcnemar exact")


def permutation(ours: Sequence[float], theirs: Sequence[float], weights: Sequence[float], groups: Sequence[str],
                seed: int) -> Difference:
    """Paired sign-flip test of the difference of sum(values) / sum(weights), flipping whole groups."""
    gap = _sums(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), groups)
    bottom = _sums(weights, groups)
    observed = gap.sum()
    rng, extreme, block = np.random.default_rng(seed), 0, max(1, BLOCK // len(gap))
    for start in range(0, RESAMPLES, block):
        signs = rng.integers(0, 2, (min(block, RESAMPLES - start), len(gap))) * 2.0 - 1
        extreme += int((np.abs(signs @ gap) >= abs(observed) * (1 - 1e-12)).sum())
    draws = _resample(np.stack([gap, bottom], axis=1), seed + 1)
    low, high = np.quantile(draws[:, 0] / draws[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    interval = Interval(float(low), float(high), f"paired bootstrap over {len(gap)} groups")
    return Difference(float(observed / bottom.sum()), interval, (extreme + 1) / (RESAMPLES + 1),
                      f"paired permutation over {len(gap)} groups")


def _number(groups: Sequence[str]) -> np.ndarray:
    """Group names as 0..G-1 in order of first appearance."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(g, len(seen)) for g in groups])


def _sums(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> np.ndarray:
    return np.bincount(_number(groups), weights=np.asarray(values, dtype=np.float64))


def _resample(columns: np.ndarray, seed: int) -> np.ndarray:
    """[groups, C] -> [RESAMPLES, C]: sums over as many groups drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(columns)
    block = max(1, BLOCK // count)
    draws = [columns[rng.integers(0, count, (min(block, RESAMPLES - start), count))].sum(axis=1)
             for start in range(0, RESAMPLES, block)]
    return np.concatenate(draws)
