"""What the server has done, as Prometheus reads it: GET /metrics.

https://prometheus.io/docs/instrumenting/exposition_formats/. Names follow Prometheus' own rules: a unit, `_total` for
what only grows. The engine's counters are read when asked for; times are histograms.
"""
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.serve.server import Server

WHAT = {"steps": "steps of the engine", "read": "prompt tokens read", "found": "prompt tokens found in the cache",
        "written": "tokens written", "guessed": "tokens guessed ahead", "kept": "guesses that were right",
        "finished": "jobs finished", "cancelled": "jobs whose client went away", "failed": "jobs that failed",
        "refused": "jobs refused because the queue was full", "parked": "texts that had to make room",
        "busy": "seconds in steps"}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The registry of one server."""

    def __init__(self, server: "Server"):
        try:
            import prometheus_client as prom
        except ImportError:
            raise RequestError("a server needs more packages: pip install 'meristem[serve]'") from None
        self.server, self.prom = server, prom
        self.registry = prom.CollectorRegistry()
        self.first_token = prom.Histogram("meristem_first_token_seconds", "From the request to its first token",
                                          registry=self.registry, buckets=SECONDS)
        self.between = prom.Histogram("meristem_between_tokens_seconds", "Between the tokens of a stream",
                                      registry=self.registry, buckets=SECONDS)
        self.whole = prom.Histogram("meristem_request_seconds", "From the request to its end", registry=self.registry,
                                    buckets=SECONDS)
        self.registry.register(self)

    def collect(self) -> Iterator[Any]:
        """The engines' counters now (called by prometheus_client)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        texts = self.server.models()
        for name, what in WHAT.items():
            counter = CounterMetricFamily(f"meristem_{name}", what, labels=["model"])
            for model, text in texts.items():
                counter.add_metric([model], float(getattr(text.engine.counts, name)))
            yield counter
        now = {"running": ("texts being written", lambda m: len(m.engine.rows)),
               "waiting": ("jobs that wait", lambda m: len(m.engine.waiting) + len(m.engine.parked)),
               "pages_used": ("pages of keys and values in use", lambda m: m.engine.pages.used),
               "pages": ("pages of keys and values", lambda m: m.engine.pages.count - 1),
               "tokens_per_second": ("tokens of the last step", lambda m: m.engine.speed),
               "adapters": ("adapters in memory", lambda m: len(m.bank.kept) if m.bank else 0)}
        for name, (what, value) in now.items():
            gauge = GaugeMetricFamily(f"meristem_{name}", what, labels=["model"])
            for model, text in texts.items():
                gauge.add_metric([model], float(value(text)))
            yield gauge
        answers = CounterMetricFamily("meristem_answers", "answers by status", labels=["status"])
        for status, count in self.server.guard.counts.items():
            answers.add_metric([status], float(count))
        yield answers

    def text(self) -> bytes:
        """The whole page."""
        page: bytes = self.prom.generate_latest(self.registry)
        return page


def known() -> set[str]:
    """The counters of the engine that have a line in WHAT (a test compares)."""
    from meristem.serve.settings import Counts
    return {f.name for f in fields(Counts)}
