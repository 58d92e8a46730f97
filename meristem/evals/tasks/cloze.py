"""Cloze: which of four words belongs into the gap of a sentence that the model has not seen?

    meristem evaluate RUN --corpus CORPUS --tasks cloze,next_sentence

Sentences of the corpus's test split; the three wrong words are drawn from the test split's own words as often as they
stand there (Hill et al. 2015, https://arxiv.org/abs/1511.02301, took them from the context), so that the commonest word
is no answer. A causal model is asked for log p of each word with the rest of the sentence after what stands before.
Baselines: the word that is the most common in training (unigrams), and the 5-gram asked the same.
"""
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.encoders import SENTENCE
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.benchmark import CHUNK, likelihoods

ON_REQUEST = True
CHOICES = 4
BEFORE = 300                            # characters of text in front of a sentence, at most
LEAST = 8                               # words of a sentence that is asked for
WORD = re.compile(r"[A-Za-z]{3,}")


class Cloze:
    """Items are sentences with a gap; `choices` are words with what follows them."""

    name, version, count = "cloze", 1, 400
    metrics: tuple[Metric, ...] = (Metric("cloze", "gaps whose right word of four is the likeliest", "share", "share",
                                          True),)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A gap a sentence, sentences drawn from all test documents alike."""
        texts = [(d.id, SENTENCE.split(d.text)) for d in corpus.documents("test")]
        words = [w for _, sentences in texts for s in sentences for w in WORD.findall(s)]
        places = [(n, k) for n, (_, some) in enumerate(texts) for k, s in enumerate(some) if len(s.split()) >= LEAST]
        rng, out = np.random.default_rng(seed_of(seed, self.name)), list[Item]()
        for at in rng.permutation(len(places)):
            if len(out) == limit:
                break
            n, k = places[at]
            key, sentences = texts[n]
            parts = sentences[k].split()
            gaps = [i for i in range(2, len(parts)) if WORD.fullmatch(parts[i])]
            if not gaps:
                continue
            gap = gaps[rng.integers(len(gaps))]
            wrong = list(dict.fromkeys(w for w in (words[i] for i in rng.integers(0, len(words), 40))
                                       if w.lower() != parts[gap].lower()))[:CHOICES - 1]
            right = int(rng.integers(CHOICES))
            asked = [*wrong[:right], parts[gap], *wrong[right:]]
            rest = "".join(f" {p}" for p in parts[gap + 1:])
            before = " ".join([*sentences[:k], " ".join(parts[:gap])])[-BEFORE:]
            out.append(Item(key, before, parts[gap], begins=False, ends=False, right=right, stem=" ".join(wrong),
                            choices=tuple(f"{word}{rest}" for word in asked), evidence=sentences[k]))
        return out

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The likeliest choice of each item."""
        rows: list[list[float]] = []
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            rows += self.scores(subject, items[start:start + CHUNK])
        return self.outcome(items, rows)

    def scores(self, subject: LanguageModel, items: Sequence[Item]) -> list[list[float]]:
        """A number for each choice of each item."""
        return likelihoods(subject, items)[0]

    def outcome(self, items: Sequence[Item], rows: Sequence[Sequence[float]]) -> Outcome:
        """1 where the right choice has the largest number."""
        best = [int(np.argmax(row)) for row in rows]
        name = self.metrics[0].name
        return Outcome({name: [float(b == i.right) for b, i in zip(best, items, strict=True)]},
                       {name: [1.0] * len(items)}, [i.choices[b] for i, b in zip(items, best, strict=True)])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Unigrams, then the 5-gram."""
        name = self.metrics[0].name
        common, runs = (self.outcome(items, rows) for rows in (unigrams(corpus, items), self.scores(ngram(), items)))
        return {name: Baseline("the commonest word of the training text", common),
                f"{name}/ngram": Baseline("Kneser-Ney 5-gram of the same training tokens", runs)}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """One of the choices."""
        share = sum(1 / len(i.choices) for i in items) / len(items)
        return {metric.name: Reference(share, "one of the choices at random") for metric in self.metrics}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The text itself is right by definition."""
        return {}


def unigrams(corpus: Corpus, items: Sequence[Item]) -> list[list[float]]:
    """How often the first word of each choice stands in training."""
    count = counted(corpus)
    return [[float(count[choice.split()[0]]) for choice in item.choices] for item in items]


def counted(corpus: Corpus) -> Counter[str]:
    """Words of the training split."""
    return Counter(word for d in corpus.documents("train") for word in d.text.split())


TASK = Cloze()
