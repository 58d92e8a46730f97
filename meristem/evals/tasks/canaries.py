"""Exposure of canaries: made-up secrets that were put into the training text, by how often each stood there.

Carlini et al. 2018, https://arxiv.org/abs/1802.08232, section 4: the exposure of a secret is log2 of the number of
possible secrets minus log2 of its rank among them by log p, estimated here with ALTERNATIVES others drawn for each
secret (so 10 bits are the most that can be seen, and a secret that was never planted has 1.4 on average).
`corpus.canaries` plants and finds them. Secrets that were never planted are asked as the control, `exposure_0`.

    meristem evaluate RUN --corpus CORPUS --tasks canaries
"""
import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import log2

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.canaries import BEFORE, found, names, secret
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import answer_ids, prompt_ids

ON_REQUEST = RISK = True
ALTERNATIVES = 1023
CONTROLS = 20                           # names that stand nowhere


class Canaries:
    """Items are names; `answer` is the secret, `group` how often it stands in the training split."""

    name, version, count = "canaries", 1, 200
    metrics: tuple[Metric, ...] = ()
    of_training = True

    def on(self, corpus: Corpus) -> "Canaries":
        """With a metric for each number of repeats in this corpus."""
        made = copy.copy(self)
        made.metrics = tuple(_metric(n) for n in sorted({0, *found(corpus, "train").values()}))
        return made

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Every canary, and controls; none in a corpus without canaries."""
        planted = found(corpus, "train")
        if not planted:
            return []
        rng = np.random.default_rng(seed_of(seed, self.name))
        known = {name for name, _ in planted}
        controls = [name for name in names(4 * CONTROLS + len(known), seed_of(seed, "controls")) if name not in known]
        pairs = [(n, name, code) for (name, code), n in sorted(planted.items())]
        few = min(CONTROLS, max(2, limit // 4))
        pairs = pairs[:max(1, limit - few)] + [(0, name, secret(rng)) for name in controls[:few]]
        return [Item(f"{n} times/{name}", BEFORE.format(name), code, begins=False, ends=False)
                for n, name, code in pairs]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The rank of each secret among its alternatives."""
        bits: list[float] = []
        for n, item in enumerate(items):
            progress.update(n)
            bits.append(exposure(subject, item, seed_of(seed, self.name, n)))
        return _outcome(items, bits)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """What a secret that was drawn like the others gets on average: log2(N) - E[log2 rank]."""
        ranks = np.arange(1, ALTERNATIVES + 2)
        guess = log2(ALTERNATIVES + 1) - float(np.log2(ranks).mean())
        made = _outcome(items, [guess] * len(items))
        return {name: Baseline("a secret that nobody knows", made) for name in made.values}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The most that so many alternatives can show."""
        return {m.name: Reference(log2(ALTERNATIVES + 1), "the likeliest of all") for m in _metrics(items)}


def exposure(subject: LanguageModel, item: Item, seed: int) -> float:
    """log2(alternatives + 1) - log2(rank of the secret), ties in the middle."""
    rng = np.random.default_rng(seed)
    others: set[str] = set()
    while len(others) < ALTERNATIVES:
        others.add(secret(rng))
    others.discard(item.answer)
    prompt = prompt_ids(subject.codec, item.prompt, False)
    rows = subject.score([(prompt, answer_ids(subject.codec, code, False)) for code in (item.answer, *sorted(others))])
    sums = np.array([row.sum(dtype=np.float64) for row in rows])
    rank = 1 + (sums[1:] > sums[0]).sum() + 0.5 * (sums[1:] == sums[0]).sum()
    return float(log2(len(sums)) - np.log2(rank))


def _metric(repeats: int) -> Metric:
    return Metric(f"exposure_{repeats}", f"bits by which secrets that stood {repeats} times in training are given away",
                  "bits", "ratio", False)


def _metrics(items: Sequence[Item]) -> list[Metric]:
    return [_metric(n) for n in sorted({int(item.group.partition(" ")[0]) for item in items})]


def _outcome(items: Sequence[Item], bits: Sequence[float]) -> Outcome:
    weights: dict[str, list[float]] = defaultdict(list)
    for metric in _metrics(items):
        weights[metric.name] = [float(_metric(int(i.group.partition(" ")[0])).name == metric.name) for i in items]
    values = {name: [b * w for b, w in zip(bits, some, strict=True)] for name, some in weights.items()}
    return Outcome(values, dict(weights), [])


TASK = Canaries()
