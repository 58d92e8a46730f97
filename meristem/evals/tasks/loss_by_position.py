"""Long context: the loss by how much text stands before a token; a model that uses its context falls to the end of it.

Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, figure 20 (loss by position). Items are the beginnings of test
documents of at least one context; every token is scored once, in one pass, and counted in the bucket of its position.
With `--stretch` (YaRN and others) positions beyond the trained context are asked too. Baseline: the 5-gram, whose loss
is flat.

    meristem evaluate RUN --corpus CORPUS --tasks loss_by_position
"""
import copy
from collections.abc import Callable, Sequence

import numpy as np

from meristem.codecs.base import Codec, begin
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn

ON_REQUEST = True
EDGES = (0, 16, 64, 256, 1024, 4096, 16_384)                   # positions at which buckets begin
LONGEST = 16_384                        # tokens of an item


class LossByPosition:
    """Items are beginnings of test documents; buckets no document reaches are left out."""

    name, version, count = "loss_by_position", 1, 40
    metrics: tuple[Metric, ...] = ()

    def on(self, corpus: Corpus) -> "LossByPosition":
        """With the buckets that the longest test document may reach (a token is at least a byte)."""
        longest = max((len(d.text.encode("utf-8", "replace")) for d in corpus.documents("test")), default=0)
        made = copy.copy(self)
        made.metrics = tuple(_metric(n) for n, low in enumerate(EDGES[:-1]) if low < longest)
        return made

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """The longest ones first: short documents say nothing about late places."""
        found = sorted(corpus.documents("test"), key=lambda d: (-len(d.text), d.id))[:4 * limit]
        return [Item(d.id, "", d.text[:8 * LONGEST], ends=False) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """One pass a document, as long as the context."""
        rows, most = [], int(min(subject.room(0), LONGEST))
        for n, item in enumerate(items):
            progress.update(n)
            ids = np.asarray(subject.codec.encode(item.answer), dtype=np.int64)[:most]
            rows += subject.score([(np.array([begin(subject.codec)]), ids)])
        return self._outcome(items, rows)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The 5-gram at the same places."""
        model = ngram()
        rows = model.score([(np.array([begin(model.codec)]), np.asarray(model.codec.encode(item.answer))[:LONGEST])
                            for item in items])
        made = self._outcome(items, rows)
        return {name: Baseline("Kneser-Ney 5-gram of the same training tokens", made) for name in made.values}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """Not known."""
        return {}

    def _outcome(self, items: Sequence[Item], rows: Sequence[np.ndarray]) -> Outcome:
        values: dict[str, list[float]] = {}
        weights: dict[str, list[float]] = {}
        for n, metric in enumerate(self.metrics):
            pieces = [row[EDGES[n]:EDGES[n + 1]] for row in rows]
            if sum(map(len, pieces)):
                values[metric.name] = [float(-piece.sum(dtype=np.float64)) for piece in pieces]
                weights[metric.name] = [float(len(piece)) for piece in pieces]
        return Outcome(values, weights, [])


def _metric(n: int) -> Metric:
    low, high = EDGES[n], EDGES[n + 1]
    return Metric(f"loss_at_{low}", f"nats a token at positions {low} to {high - 1}", "nats", "ratio", False)


TASK = LossByPosition()
