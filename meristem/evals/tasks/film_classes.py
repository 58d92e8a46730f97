"""Actions in films: the class of a film is the one whose words lie nearest to it; and whether order is used at all.

    meristem evaluate runs/film_clip --corpus runs/clips --tasks film_classes

Items are test films with a label; the classes are those of the test split. The control shows the same frames in a
random order: what is left of the score needs no motion. Baseline: a guess.
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.clips import stored
from meristem.data.pictures import names_of
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.bound import OnCorpus, drawn
from meristem.evals.pictures import vectors
from meristem.evals.subject import Subject
from meristem.evals.towers import Towers, text_vectors

METRICS = (
    Metric("film_classes", "held-out films whose action is named by its words", "share", "share", True),
    Metric("film_classes_shuffled", "the same with the frames in a random order", "share", "ratio", False))


class FilmClasses(OnCorpus):
    """Items are labelled test films."""

    name, version, count = "film_classes", 1, 400
    metrics = METRICS

    def fits(self, module: nn.Module) -> str:
        """Two towers that see films are needed."""
        both = isinstance(module, Towers) and vars(module.config).get("part") == "both"
        return "" if both and vars(module.config).get("frames", 1) > 1 else "this model compares no films with texts"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` films."""
        found = [d for d in corpus.documents("test") if names_of(d) and "label" in d.fields]
        return [Item(d.id, names_of(d)[0], d.fields["label"]) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The nearest class of each film, and of its frames in disorder."""
        assert isinstance(subject, Subject)
        config: Any = subject.module.config
        rows = {d.id: n for n, d in enumerate(d for d in self.corpus.documents("test") if names_of(d))}
        every = stored(self.corpus, config.frames, config.image, config.channels)["test"]
        films = every[[rows[item.group] for item in items]]
        rng = np.random.default_rng(seed_of(seed, self.name, "shuffled"))
        mixed = np.stack([film[rng.permutation(config.frames)] for film in films])
        names = sorted({item.answer for item in items})
        texts = text_vectors(subject, names)
        said = [[names[best] for best in (vectors(subject.module, some) @ texts.T).argmax(1).tolist()]
                for some in (films, mixed)]
        return _outcome(items, *said)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """A guess."""
        share = 1 / len({item.answer for item in items})
        values = {metric.name: [share] * len(items) for metric in METRICS}
        weights = {name: [1.0] * len(items) for name in values}
        return {name: Baseline(f"a guess among {round(1 / share)} classes", Outcome(values, weights, []))
                for name in values}


def _outcome(items: Sequence[Item], said: list[str], mixed: list[str]) -> Outcome:
    values = {metric.name: [float(word == item.answer) for word, item in zip(some, items, strict=True)]
              for metric, some in zip(METRICS, (said, mixed), strict=True)}
    return Outcome(values, {name: [1.0] * len(items) for name in values}, said)


TASK = FilmClasses()
