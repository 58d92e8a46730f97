"""Homogenisation: do models on one base fail on the same items more often than independent ones?

    together([answers_a, answers_b, ...], seed=0)              # right (1) or wrong (0), the same items in one order

Bommasani et al. 2022, https://arxiv.org/abs/2211.13972, section 3: the rate at which all models fail on an item, over
what it would be if they failed independently (the product of their error rates). Beside it the mean correlation of
their errors over all pairs. Both with a bootstrap over items.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.evals.statistics import LEVEL, RESAMPLES, Interval


@dataclass(frozen=True)
class Together:
    """`ratio`: joint failures over those expected of independent models (1: independent); `correlation` of errors."""

    models: int
    n: int
    ratio: float
    ratio_interval: Interval
    correlation: float
    correlation_interval: Interval
    errors: tuple[float, ...]           # each model's share of wrong answers


def together(answers: Sequence[Sequence[float]], seed: int = 0) -> Together:
    """Of at least two models' answers; RequestError when they are of different length or one never fails."""
    wrong = 1 - np.array([list(row) for row in answers], dtype=np.float64) if len({len(r) for r in answers}) == 1 else \
        np.empty(0)
    if wrong.ndim != 2 or len(wrong) < 2:
        raise RequestError("homogenisation compares at least two models on the same items")
    if not (wrong.mean(1) > 0).all():
        raise RequestError("a model without a single error has no failures to share")
    rng, n = np.random.default_rng(seed), wrong.shape[1]
    draws = [_measured(wrong[:, rng.integers(0, n, n)]) for _ in range(RESAMPLES // 4)]
    ratio, correlation = _measured(wrong)
    intervals = []
    for column in zip(*draws, strict=True):
        kept = [x for x in column if np.isfinite(x)]
        low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals.append(Interval(float(low), float(high), f"bootstrap over {n} items"))
    return Together(len(wrong), n, ratio, intervals[0], correlation, intervals[1],
                    tuple(float(x) for x in wrong.mean(1)))


def of_runs(folders: Sequence[Path], task: str, metric: str, seed: int = 0) -> Together:
    """Of several runs' certificates of one task; RequestError where one is missing or was asked other items."""
    trees = [read_json(folder / "evals" / f"{task}.json") for folder in folders]
    if len({tree["scores"][0]["prompt_hash"] for tree in trees}) > 1:
        raise RequestError(f"the runs were asked other items of {task} each; use the same --limit and --seed")
    return together([tree["outcome"]["values"][metric] for tree in trees], seed)


def _measured(wrong: np.ndarray) -> tuple[float, float]:
    expected = float(wrong.mean(1).prod())
    ratio = float(wrong.prod(0).mean()) / expected if expected > 0 else float("nan")
    pairs = [float(np.corrcoef(a, b)[0, 1]) for a, b in combinations(wrong, 2) if a.std() > 0 and b.std() > 0]
    return ratio, float(np.mean(pairs)) if pairs else float("nan")


@dataclass(frozen=True)
class Inherited:
    """One adapted model beside its base: both values, and the correlation of their values item by item."""

    model: str
    base: float
    adapted: float
    correlation: float
    interval: Interval


def inherited(base: Path, adapted: Sequence[Path], task: str, metric: str, seed: int = 0) -> list[Inherited]:
    """Is a base's behaviour passed on? A row for each adapted run, of certificates of the same items.

    RequestError where a run was asked other items. A correlation of 1: the adapted model leans where its base leans.
    """
    trees = {folder: read_json(folder / "evals" / f"{task}.json") for folder in (base, *adapted)}
    if len({tree["scores"][0]["prompt_hash"] for tree in trees.values()}) > 1:
        raise RequestError(f"the runs were asked other items of {task} each; use the same --limit and --seed")
    counts = {folder: np.array(tree["outcome"]["weights"][metric]) > 0 for folder, tree in trees.items()}
    values = {folder: np.array(tree["outcome"]["values"][metric]) for folder, tree in trees.items()}
    rng, out = np.random.default_rng(seed), []
    for folder in adapted:
        both = counts[base] & counts[folder]                   # bbq's bias counts the items that were not refused
        first, other, n = values[base][both], values[folder][both], int(both.sum())
        draws = []
        for _ in range(RESAMPLES // 4):
            rows = rng.integers(0, max(1, n), n)
            if n and first[rows].std() > 0 and other[rows].std() > 0:
                draws.append(float(np.corrcoef(first[rows], other[rows])[0, 1]))
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if draws else (float("nan"), float("nan"))
        whole = float(np.corrcoef(first, other)[0, 1]) if n and first.std() > 0 and other.std() > 0 else float("nan")
        said = Interval(float(low), float(high), f"bootstrap over {n} items")
        ours, theirs = _mean(values[base][counts[base]]), _mean(values[folder][counts[folder]])
        out.append(Inherited(folder.name, ours, theirs, whole, said))
    return out


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
