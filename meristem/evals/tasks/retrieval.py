"""Retrieval: for each picture its caption among all captions of the test split, and for each caption its picture.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, table 13: recall at 1 and at 5, both ways. Equal captions count
as one, and any picture of it is right.

    meristem evaluate runs/clip --corpus CORPUS --tasks retrieval

Baseline without a network: the words of the nearest training picture's caption. Beside it a guess.
"""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.bound import drawn
from meristem.evals.pictures import RAW, shape
from meristem.evals.subject import Subject
from meristem.evals.towers import Compared, looked_up, rank, training

AT = (1, 5)
WAYS = {"text": "pictures whose own caption is among the nearest", "image": "captions whose own picture is among the "
        "nearest"}
METRICS = tuple(Metric(f"{way}_at_{k}", f"{what} {k} of all", "share", "share", True) for way, what in WAYS.items()
                for k in AT)


class Retrieval(Compared):
    """Items are test pictures with a caption."""

    name, version, count = "retrieval", 1, 5_000
    metrics = METRICS

    def items(self, corpus: Corpus, codec: Any, limit: int, seed: int) -> list[Item]:
        """At most `limit` pictures with a caption: a prompt is a picture's name in the tar, the answer its caption."""
        found = [d for d in corpus.documents("test") if "image" in d.fields and d.text]
        return [Item(d.id, d.fields["image"], d.text) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Every picture with every caption."""
        assert isinstance(subject, Subject)
        texts = captions(items)
        return outcome(rank(subject, self.asked(items, *shape(subject.module)).pixels, texts), texts, items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The nearest training picture's caption, and a guess."""
        texts, found = captions(items), dict[str, Baseline]()
        near = outcome(looked_up(training(self), self.asked(items, RAW, 3), texts), texts, items)
        for metric in METRICS:
            count = len(texts) if metric.name.startswith("text") else len(items)
            k = min(1.0, int(metric.name.rpartition("_")[2]) / count)
            found[metric.name] = Baseline("words of the nearest training picture's caption", near)
            found[f"{metric.name}/guess"] = Baseline(
                f"a guess among {count}", Outcome({metric.name: [k] * len(items)}, near.weights, []))
        return found


def captions(items: Sequence[Item]) -> list[str]:
    """The different captions, sorted."""
    return sorted({item.answer for item in items})


def outcome(scores: Tensor, texts: list[str], items: Sequence[Item]) -> Outcome:
    """Both ways of `scores` [pictures, captions]; equal scores stand in an order drawn once, so ties are guesses."""
    place = {text: column for column, text in enumerate(texts)}
    own = torch.tensor([place[item.answer] for item in items])
    jitter = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed_of("ties")), dtype=torch.float64)
    scores = scores.double() + 1e-9 * jitter
    by_picture = scores.topk(min(AT[-1], len(texts)), 1).indices                                   # [N, k]
    by_text = scores.topk(min(AT[-1], len(items)), 0).indices.T[own]                               # [N, k]
    hits = {"text": by_picture == own[:, None], "image": own[by_text] == own[:, None]}
    values = {f"{way}_at_{k}": hits[way][:, :k].any(1).float().tolist() for way in WAYS for k in AT}
    return Outcome(values, {name: [1.0] * len(items) for name in values},
                   [texts[best] for best in by_picture[:, 0].tolist()])


TASK = Retrieval()
