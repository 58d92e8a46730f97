"""Forecasts of series, as sharp as they are right: weighted quantile loss, and how often the 80 % interval holds.

Weighted quantile loss as in Salinas et al. 2017, https://arxiv.org/abs/1704.04110, section 4 (2 x pinball over the sum
of |numbers|); an interval is calibrated when 80 % of the numbers lie between its quantiles 0.1 and 0.9. The baselines
know only the window that the model reads: the last number, and the number one season before (the lag of the largest
autocorrelation), each with the quantiles of its own errors inside the window.

    meristem evaluate runs/series --corpus CORPUS --tasks forecast
"""
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.data.series import Windows
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import OnCorpus, drawn
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating

ON_REQUEST = True                       # only models of series can be asked
CONTEXT, HORIZON = 96, 24               # of the questions; a model with a shorter horizon is refused
TENTHS = np.arange(1, 10) / 10
LOSS = Metric("forecast_loss", "weighted quantile loss of forecasts", "loss over size", "ratio", False)
INSIDE = Metric("forecast_inside", "numbers inside the 80 % interval of their forecast", "share", "ratio", True)


class Forecast(OnCorpus):
    """Items are windows of test series that do not overlap in what is forecast."""

    name, version, count = "forecast", 1, 10_000
    metrics = (LOSS, INSIDE)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` windows: the prompt and the answer are numbers as JSON; the group is their series."""
        found = Windows.of(corpus, "test", CONTEXT, HORIZON, (1, 0, 0))
        rows = []
        for number, at in drawn(found.apart.tolist(), limit, seed, self.name):
            window = [None if np.isnan(x) else float(x) for x in found.series[number][at:at + CONTEXT + HORIZON]]
            rows.append(Item(str(number), json.dumps(window[:CONTEXT]), json.dumps(window[CONTEXT:]),
                             evidence=f"{number} {at}"))
        return rows

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The model's tenths of each next number."""
        config: Any = subject.module.config if isinstance(subject, Subject) else None
        if not isinstance(subject, Subject) or "quantiles" not in vars(config):
            raise RequestError("forecast asks a model of series; train one with recipe series")
        if config.horizon < HORIZON or not np.allclose(config.quantiles, TENTHS):
            raise RequestError(f"forecast asks for {HORIZON} numbers in tenths; this model gives {config.horizon}, "
                               f"{len(config.quantiles)} quantiles")
        windows, _ = numbers(items)
        given = np.full((len(items), config.context), np.nan, np.float32)
        width = min(CONTEXT, config.context)
        given[:, -width:] = windows[:, -width:]
        with evaluating(subject.module):
            said = [subject.module(part)[:, :HORIZON] for part in torch.from_numpy(given).split(64)]
        return judged(torch.cat(said).numpy(), items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The last number, and the number a season before."""
        windows, _ = numbers(items)
        naive = judged(np.stack([repeated(window, 1) for window in windows]), items)
        season = judged(np.stack([repeated(window, season_of(window)) for window in windows]), items)
        return {f"{metric.name}{key}": Baseline(what, outcome) for metric in self.metrics
                for key, what, outcome in (("", "the number a season before", season),
                                           ("/last", "the last number", naive))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """A calibrated interval holds 80 %."""
        return {INSIDE.name: Reference(0.8, "a calibrated interval")}


def numbers(items: Sequence[Item]) -> tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N H"]]:
    """Windows and what came after them."""
    return tuple(np.array([[np.nan if x is None else x for x in json.loads(text)] for text in some], dtype=np.float32)
                 for some in ([i.prompt for i in items], [i.answer for i in items]))         # type: ignore[return-value]


def repeated(window: Float[np.ndarray, "C"], lag: int) -> Float[np.ndarray, "H Q"]:
    """The last `lag` numbers again and again, with the tenths of the errors that this made in the window itself."""
    window = window[~np.isnan(window)]
    if not len(window):
        return np.zeros((HORIZON, len(TENTHS)), np.float32)
    lag = min(lag, len(window))
    out = []
    for ahead in range(1, HORIZON + 1):
        back = -(-ahead // lag) * lag                          # whole seasons
        errors = window[back:] - window[:-back] if back < len(window) else np.zeros(1, np.float32)
        out.append(window[len(window) - lag + (ahead - 1) % lag] + np.quantile(errors - np.median(errors), TENTHS))
    return np.array(out, dtype=np.float32)


def season_of(window: Float[np.ndarray, "C"]) -> int:
    """The lag from 2 to a third of the window at which it is most like itself; 1 where it never is."""
    x = window[~np.isnan(window)]
    x = x - x.mean() if len(x) else x
    lags = range(2, len(x) // 3 + 1)
    like = [float((x[lag:] * x[:-lag]).sum() / max(1e-12, np.sqrt((x[lag:]**2).sum() * (x[:-lag]**2).sum())))
            for lag in lags]
    peaks = [n for n in range(1, len(like) - 1) if like[n - 1] <= like[n] >= like[n + 1]]
    best = max(peaks, key=lambda n: like[n], default=-1)
    return lags[best] if best >= 0 and like[best] > 0.2 else 1


def judged(said: Float[np.ndarray, "N H Q"], items: Sequence[Item]) -> Outcome:
    """Loss and size of each window; numbers inside and known."""
    came = numbers(items)[1]
    known = ~np.isnan(came)
    gap = np.where(known, came, 0.0)[..., None] - said
    loss = (2 * np.maximum(TENTHS * gap, (TENTHS - 1) * gap).mean(-1) * known).sum(1)
    inside = ((gap[..., 0] >= 0) & (gap[..., -1] <= 0) & known).sum(1)
    size = np.abs(np.where(known, came, 0.0)).sum(1)
    return Outcome({LOSS.name: loss.tolist(), INSIDE.name: inside.astype(float).tolist()},
                   {LOSS.name: size.tolist(), INSIDE.name: known.sum(1).astype(float).tolist()}, [])


TASK = Forecast()
