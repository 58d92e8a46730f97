"""Mixture weights learned from small runs: a law of each source's loss in the weights, and the mixture it likes best.

Ye et al. 2024, "Data mixing laws", https://arxiv.org/abs/2403.16952, equation 7: the loss of source i at weights r:
    L_i(r) = c_i + k_i exp(sum_j t_ij r_j)
fitted here to the bits per byte that finished runs report by source; c_i is searched for on a grid, the rest is least
squares on log(L_i - c_i). The best mixture has the smallest mean of the predicted L_i among 100,000 drawn evenly from
the weights that the runs span (RegMix draws as many: Liu et al. 2024, https://arxiv.org/abs/2407.01492).

    weights = best([Path("runs/small0"), Path("runs/small1"), Path("runs/small2")])
"""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meristem.core.errors import RequestError

DRAWN = 100_000
GRID = np.linspace(0.0, 0.98, 50)       # of the least loss seen, for c


def best(runs: Sequence[Path]) -> dict[str, float]:
    """The weights that minimise the predicted mean bits per byte; RequestError: too few runs, or other sources."""
    facts = [_facts(run) for run in runs]
    names = sorted(facts[0][1]) if facts else []
    if len(facts) < len(names) + 1 or len(names) < 2:
        raise RequestError(f"data.mixture.runs names {len(facts)} runs of {len(names)} sources; a law of the weights "
                           "needs two sources, and finished runs of one mixture more than there are sources")
    for run, (weights, found) in zip(runs, facts, strict=True):
        if set(found) != set(names) or not set(weights) <= set(names):
            raise RequestError(f"{run} has the sources {', '.join(found)}, and {runs[0]} has {', '.join(names)}")
    mixtures = np.array([[weights.get(name, 0.0) for name in names] for weights, _ in facts])
    losses = np.array([[found[name] for name in names] for _, found in facts])
    drawn = np.random.default_rng(0).dirichlet(np.ones(len(names)), DRAWN)
    drawn = drawn[((drawn >= mixtures.min(0)) & (drawn <= mixtures.max(0))).all(1)]
    drawn = np.concatenate([mixtures, drawn])                  # what was run is among what is judged
    mean = np.mean([_Law(mixtures, losses[:, i])(drawn) for i in range(len(names))], 0)
    return dict(zip(names, drawn[int(np.argmin(mean))].tolist(), strict=True))


class _Law:
    """c + k exp(t . r), fitted to some mixtures [R, S] and losses [R]; log k is in t, since weights sum to 1."""

    def __init__(self, mixtures: np.ndarray, losses: np.ndarray) -> None:
        fits = []
        for c in GRID * losses.min():
            t = np.linalg.lstsq(mixtures, np.log(losses - c), rcond=None)[0]
            fits.append((float(np.square(c + np.exp(mixtures @ t) - losses).sum()), c, t))
        _, self.c, self.t = min(fits, key=lambda fit: fit[0])

    def __call__(self, mixtures: np.ndarray) -> np.ndarray:
        return self.c + np.exp(mixtures @ self.t)


def _facts(run: Path) -> tuple[dict[str, float], dict[str, float]]:
    """(weights, bits per byte) by source of a run, as the last line of its log with both says."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RequestError(f"data.mixture.runs: {run} has no log that can be read: {error}") from None
    for line in reversed(lines):
        if "mixture" in line and "bits_per_byte" in line:
            return line["mixture"], line["bits_per_byte"]
    raise RequestError(f"data.mixture.runs: {run} was not trained on a mixture to its end; "
                       "run it with data.mixture.name=fixed")
