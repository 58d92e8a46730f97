"""Bits per byte by source: how well each part of a mixture is predicted (Gao et al. 2020, "The Pile", table 7).

A document's source is the one the corpus names (`source`), else the first folder of its path, else its kind. Sources
with fewer than FEWEST segments are put together as "others". The segments are those of `bits_per_byte`.

    meristem evaluate RUN --corpus CORPUS --tasks bits_by_source
"""
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.tasks.bits_per_byte import CHUNK, answer_bits, answer_bytes, segments

ON_REQUEST = True
FEWEST = 5                              # segments of a source
OTHERS = "others"


class BitsBySource:
    """Items are segments of test documents; `stem` is their source."""

    name, version, count = "bits_by_source", 1, 200
    metrics: tuple[Metric, ...] = ()

    def on(self, corpus: Corpus) -> "BitsBySource":
        """With a metric for each source of this corpus."""
        made = copy.copy(self)
        made.metrics = tuple(_metric(name) for name in sorted({item.stem for item in _segments(corpus)}))
        return made

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """As many segments of each source as can be."""
        found = _segments(corpus)
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))
        seen: Counter[str] = Counter()
        turn = []
        for i in order:
            seen[found[i].stem] += 1
            turn.append((seen[found[i].stem], int(i)))
        return [found[i] for _, i in sorted(turn)][:limit]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Bits and bytes of every segment, each counted for its source."""
        bits: list[float] = []
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            bits += answer_bits(subject, items[start:start + CHUNK])
        return self._outcome(items, bits)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The Kneser-Ney 5-gram of the training split on the same tokens."""
        made = self._outcome(items, answer_bits(ngram(), items))
        return {name: Baseline("Kneser-Ney 5-gram of the same training tokens", made) for name in made.values}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The entropy of text is not known."""
        return {}

    def _outcome(self, items: Sequence[Item], bits: Sequence[float]) -> Outcome:
        size = answer_bytes(items)
        here = {name: [float(item.stem == name) for item in items] for name in sorted({item.stem for item in items})}
        return Outcome({_metric(name).name: [b * x for b, x in zip(bits, some, strict=True)]
                        for name, some in here.items()},
                       {_metric(name).name: [n * x for n, x in zip(size, some, strict=True)]
                        for name, some in here.items()}, [])


def source_of(document: Document) -> str:
    """The name of a document's source."""
    parts = PurePath(document.meta.get("path", "")).parts
    named = document.meta.get("source") or (parts[0] if len(parts) > 1 else "") or document.meta.get("kind", "")
    return str(named) or OTHERS


def _metric(source: str) -> Metric:
    return Metric(f"bits_of_{source}", f"bits per UTF-8 byte of held-out documents of {source}", "bits/byte", "ratio",
                  False)


def _segments(corpus: Corpus) -> list[Item]:
    found = [replace(item, stem=source_of(document)) for document in corpus.documents("test")
             for item in segments(document.id, document.text)]
    count = Counter(item.stem for item in found)
    return [item if count[item.stem] >= FEWEST else replace(item, stem=OTHERS) for item in found]


TASK = BitsBySource()
