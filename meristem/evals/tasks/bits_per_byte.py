"""Bits per byte of held-out text: how many bits the model needs for each UTF-8 byte it has never seen.

The unit that can be compared across tokenizers (Gao et al. 2020, "The Pile", section 3.1): the sum of -log2 p over all
tokens, end tokens included, over the bytes of the text. Documents of the test split are cut at line ends into segments
of about 4 kB, each read with up to 2 kB of its document before it; a seeded choice of segments makes the sample, so it
estimates the figure of the whole split. Intervals resample whole documents. The 5-gram scores the very same tokens.
"""
from collections.abc import Callable, Sequence
from math import log

import numpy as np

from meristem.codecs.base import Codec, gives_back
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.subject import answer_ids, prompt_ids

SEGMENT, HISTORY = 4_000, 2_000         # characters
CHUNK = 16                              # items between two signs of life
METRIC = Metric("bits_per_byte", "bits per UTF-8 byte of held-out documents", "bits/byte", "ratio", False)


class BitsPerByte:
    """Items are segments of test documents."""

    name, version, count = "bits_per_byte", 1, 75
    metrics = (METRIC,)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` segments of the test split."""
        found = [item for document in corpus.documents("test") for item in segments(document.id, document.text)]
        return drawn(found, limit, seed, self.name)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Bits and bytes of every segment."""
        bits: list[float] = []
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            bits += answer_bits(subject, items[start:start + CHUNK])
        return Outcome({METRIC.name: bits}, {METRIC.name: answer_bytes(items)}, [])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The Kneser-Ney 5-gram of the training split on the same tokens."""
        outcome = Outcome({METRIC.name: answer_bits(ngram(), items)}, {METRIC.name: answer_bytes(items)}, [])
        return {METRIC.name: Baseline("Kneser-Ney 5-gram of the same training tokens", outcome)}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The entropy of text is not known."""
        return {}


def segments(document: str, text: str) -> list[Item]:
    """A document cut at line ends into answers of about SEGMENT characters, each after up to HISTORY before it."""
    out, start = [], 0
    while start < len(text):
        stop = text.find("\n", start + SEGMENT) + 1 or len(text)
        before = max(0, start - HISTORY)
        out.append(Item(document, text[before:start], text[start:stop], before == 0, stop == len(text)))
        start = stop
    return out


def answer_bits(subject: LanguageModel, items: Sequence[Item]) -> list[float]:
    """-log2 p of each item's answer given its prompt, summed over its tokens.

    RequestError for a codec that does not give an answer back: bits of fewer bytes would be counted over all of them.
    """
    codec = subject.codec
    gives_back(codec, (i.answer for i in items))
    pairs = [(prompt_ids(codec, i.prompt, i.begins), answer_ids(codec, i.answer, i.ends)) for i in items]
    return [float(-p.sum(dtype=np.float64) / log(2)) for p in subject.score(pairs)]


def answer_bytes(items: Sequence[Item]) -> list[float]:
    """UTF-8 bytes of each answer."""
    return [float(len(i.answer.encode("utf-8", "surrogatepass"))) for i in items]


TASK = BitsPerByte()
