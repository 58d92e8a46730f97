"""How sure a scaling law is: refits to resampled runs, its error on runs larger than it saw, and what lies beyond them.

    found = of(points)                  # [R, 3]: N, D, loss
    found.law.loss(n, d); found.interval(n, d)                 # 80 %

Three things make the interval. Refits to resampled runs (a bootstrap) say how well the constants are known. Around each
refit a single run scatters: by the residual, or by the error with which the smaller four fifths of the runs forecast
the largest fifth, if that is more. That scatter is doubled for every factor of ten of compute beyond the largest run.
The last is a rule, not a result: on Chinchilla's runs errors double where nothing among the smaller ones says so
(docs/scaling.md has what each part covers).
"""
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from meristem.plan import scaling
from meristem.plan.scaling import FREE, Law, Number, Points, Prior, fit

LARGEST = 0.2                           # share of the runs that a backtest forecasts
DRAWS = 40
FACTS = ("E", "A", "alpha", "B", "beta", "residual")


@dataclass(frozen=True)
class Forecast:
    """A law, its refits, the relative scatter of a single run around it, and N x D of the largest run it rests on."""

    law: Law
    laws: tuple[Law, ...]
    scatter: float
    reach: float

    def interval(self, parameters: Number, data: Number, unique: Number = math.inf, *,
                 share: float = 0.8) -> tuple[float, float]:
        """The bounds within which the loss of one run is expected with probability `share`."""
        spread = self.scatter * 2 ** max(0.0, self.beyond(parameters, data))
        around = [replace(law, residual=spread) for law in self.laws]
        return scaling.interval(around, parameters, data, unique, share=share)

    def beyond(self, parameters: Number, data: Number) -> float:
        """Factors of ten of compute beyond the largest run; negative within."""
        return math.log10(parameters * data / self.reach) if self.reach else 0.0

    def to_law(self) -> Law:
        """The law with its refits and scatter among its facts: what a law's JSON file keeps."""
        refits = [[getattr(law, name) for name in FACTS] for law in self.laws]
        return replace(self.law, facts={**self.law.facts, "refits": refits, "scatter": self.scatter,
                                        "reach": self.reach})


def of(points: Points, *, unit: str = "nats/token", source: str = "", prior: Prior = FREE, draws: int = 0,
       facts: dict[str, Any] | None = None) -> Forecast:
    """Fit runs and find out how sure the fit is; `prior` as in `scaling.fit`. RequestError below six runs, or four with
    a prior."""
    points = points[np.argsort(points[:, 0] * points[:, 1])]
    law = fit(points, unit=unit, source=source, prior=prior)
    errors = backtest(points, prior)
    scatter = max(law.residual, float(np.sqrt(np.mean(errors**2)))) if len(errors) else law.residual
    law = replace(law, facts={**(facts or {}), "runs": len(points),
                              "parameters": [points[:, 0].min(), points[:, 0].max()],
                              "data": [points[:, 1].min(), points[:, 1].max()]})
    laws = scaling.bootstrap(points, law, draws=draws or DRAWS, prior=prior)
    return Forecast(law, tuple(laws), scatter, float((points[:, 0] * points[:, 1]).max()))


def backtest(points: Points, prior: Prior = FREE) -> np.ndarray:
    """Log of measured over forecast loss of the largest fifth of the runs, by a fit to the smaller ones; empty when
    those are too few."""
    points = points[np.argsort(points[:, 0] * points[:, 1])]
    cut = len(points) - max(1, round(LARGEST * len(points)))
    if cut < (4 if prior.strength else 6):
        return np.zeros(0)
    law = fit(points[:cut], prior=prior)
    return np.array([math.log(loss / law.loss(n, d)) for n, d, loss in points[cut:]])


def stored(law: Law) -> Forecast:
    """A forecast from a law that keeps its refits (`to_law`); one without them scatters by its residual alone."""
    facts = law.facts
    laws = tuple(Law(**dict(zip(FACTS, refit, strict=True)), unit=law.unit) for refit in facts.get("refits", ()))
    scatter = max(law.residual, facts.get("scatter", 0.0), abs(facts.get("held_out_error", 0.0)))
    ends = [facts.get(name, (0.0, 0.0))[1] for name in ("parameters", "data")]
    return Forecast(law, laws or (law,), scatter, facts.get("reach", ends[0] * ends[1]))

