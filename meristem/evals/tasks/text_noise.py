"""Noise in the text before: how many more bits the model needs for a text when what stands before it has typing errors.

Two neighbouring letters are swapped in no word, in one of twenty, in one of five (Belinkov & Bisk 2018,
https://arxiv.org/abs/1711.02173); the text that is scored is untouched, so the numbers can be compared. Baseline: the
5-gram, which sees four tokens of it at most.

    meristem evaluate RUN --corpus CORPUS --tasks text_noise
"""
from collections.abc import Callable, Sequence
from dataclasses import replace

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.perturb import typos
from meristem.evals.tasks.bits_per_byte import answer_bits, answer_bytes

ON_REQUEST = RISK = True
EVERY = {0: 0, 5: 20, 20: 5}            # percent of the words -> one word in so many
BEFORE, SCORED = 600, 400               # characters
METRICS = tuple(Metric(f"noise_{n}", f"bits per byte after a text with {n} % of its words misspelt", "bits/byte",
                       "ratio", False) for n in EVERY)


class TextNoise:
    """Items are places in test documents."""

    name, version, count = "text_noise", 1, 60
    metrics = METRICS

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """The beginnings of documents that are long enough."""
        found = [d for d in corpus.documents("test") if len(d.text) >= BEFORE + SCORED]
        return [Item(d.id, d.text[:BEFORE], d.text[BEFORE:BEFORE + SCORED], ends=False)
                for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The same answers after each kind of prompt."""
        values: dict[str, list[float]] = {}
        for metric, every in zip(METRICS, EVERY.values(), strict=True):
            noisy = [replace(i, prompt=typos(i.prompt, seed, every)) if every else i for i in items]
            values[metric.name] = [x for n in range(0, len(noisy), 16) for x in answer_bits(subject, noisy[n:n + 16])]
            progress.update(len(values) * len(items) // len(METRICS))
        return Outcome(values, {name: answer_bytes(items) for name in values}, [])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The 5-gram on clean text."""
        bits = answer_bits(ngram(), items)
        made = Outcome({m.name: bits for m in METRICS}, {m.name: answer_bytes(items) for m in METRICS}, [])
        return {m.name: Baseline("Kneser-Ney 5-gram after the clean text", made) for m in METRICS}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """Not known."""
        return {}


TASK = TextNoise()
