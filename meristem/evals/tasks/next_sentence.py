"""The next sentence: which of four goes on with a text that the model has not seen?

    meristem evaluate RUN --corpus CORPUS --tasks next_sentence

Three sentences of a test document, then the one that follows and three of other test documents that are about as long
(BERT asks for one of two: Devlin et al. 2018, https://arxiv.org/abs/1810.04805 section 3.1). A causal model takes the
sentence that the text makes so much likelier: log p(sentence | text) - log p(sentence), as Brown et al. 2020, section
2.4, do where answers differ in how likely they are by themselves. Baselines: the sentence of the commonest words
(unigrams), and the one that shares the most words with the text.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.encoders import SENTENCE
from meristem.evals.base import Baseline, Item, LanguageModel, Metric
from meristem.evals.benchmark import likelihoods
from meristem.evals.tasks.cloze import CHOICES, LEAST, Cloze, counted
from meristem.evals.words import plain

ON_REQUEST = True
SHOWN = 3                               # sentences before the one that is asked for
MOST = 300                              # characters of a sentence, and of the text before it
POOL = 24                               # sentences among which the likest in length are taken


class NextSentence(Cloze):
    """Items are texts; `choices` are sentences."""

    name, version, count = "next_sentence", 1, 400
    metrics = (Metric("next_sentence", "texts of whose four next sentences the right one is chosen", "share", "share",
                      True),)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Places drawn from all test documents alike."""
        texts = [(d.id, [s for s in SENTENCE.split(d.text) if s.strip()]) for d in corpus.documents("test")]
        every = [(n, k) for n, (_, some) in enumerate(texts) for k, s in enumerate(some)
                 if len(s.split()) >= LEAST and len(s) <= MOST]
        rng, out = np.random.default_rng(seed_of(seed, self.name)), list[Item]()
        for at in rng.permutation(len(every)):
            n, k = every[at]
            if len(out) == limit:
                break
            key, sentences = texts[n]
            others = {texts[a][1][b] for a, b in (every[i] for i in rng.integers(0, len(every), POOL)) if a != n}
            near = sorted(others - {sentences[k]}, key=lambda text: (abs(len(text) - len(sentences[k])), text))
            if k < SHOWN or len(near) < CHOICES - 1:
                continue
            wrong = near[:CHOICES - 1]
            right = int(rng.integers(CHOICES))
            text = " ".join(sentences[k - SHOWN:k])[-MOST:]
            out.append(Item(key, text, sentences[k], begins=False, ends=False, right=right,
                            choices=(*wrong[:right], sentences[k], *wrong[right:])))
        return out

    def scores(self, subject: LanguageModel, items: Sequence[Item]) -> list[list[float]]:
        """How many nats the text takes off each sentence."""
        after, _ = likelihoods(subject, items)
        alone, _ = likelihoods(subject, [replace(item, prompt="") for item in items])
        return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(after, alone, strict=True)]

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Unigrams, then shared words."""
        count, name = counted(corpus), self.metrics[0].name
        total = sum(count.values()) + 1
        common = [[float(np.mean([log((count[w] + 0.5) / total) for w in c.split()])) for c in i.choices]
                  for i in items]
        shared = []
        for item in items:
            text = set(plain(item.prompt).split())
            words = [set(plain(c).split()) for c in item.choices]
            shared.append([len(text & w) / max(1, len(w)) for w in words])
        return {name: Baseline("the sentence of the commonest words", self.outcome(items, common)),
                f"{name}/shared": Baseline("the sentence that shares the most words with the text",
                                           self.outcome(items, shared))}


TASK = NextSentence()
