"""Label efficiency: what 10, 50, 200 or 1,000 labelled sentences are worth to a frozen model, beside an untrained one.

Logistic regression on the mean of the last layer's vectors (as `linear_probe` does for pictures; Alain & Bengio 2016,
https://arxiv.org/abs/1610.01644), labels drawn five times. The sentences are those of sentence_polarity. Baselines: the
same network before training (from scratch), and the counts of the 2,000 most common words.

    meristem evaluate RUN --tasks text_probe --data FOLDER
"""
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import Subject, prompt_ids
from meristem.evals.tasks.linear_probe import curve
from meristem.evals.tasks.sentence_polarity import SentencePolarity
from meristem.generate.base import evaluating, padded

ON_REQUEST = True
LABELS = (10, 50, 200, 1000)
TOGETHER = 64                           # sentences a forward pass
WORDS = 2000
METRICS = tuple(Metric(f"text_probe_{n}", f"sentences labelled by a linear probe with {n} labels", "share", "ratio",
                       True) for n in LABELS)


class TextProbe(SentencePolarity):
    """Items are sentences; those for training are drawn from the rest."""

    name, count = "text_probe", 500
    templates = ()
    perturbation = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One a number of labels."""
        return METRICS

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Vectors of training sentences and of the items, then the regressions."""
        assert isinstance(subject, Subject)
        train = self.pool(items, seed)
        x, y = (vectors(subject, [i.stem for i in some]) for some in (train, items))
        return measured(x, y, train, items, seed)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Counts of words."""
        train = self.pool(items, seed)
        common = [w for w, _ in Counter(w for i in train for w in words(i.stem)).most_common(WORDS)]
        place = {word: n for n, word in enumerate(common)}
        x, y = (counts([i.stem for i in some], place) for some in (train, items))
        made = measured(x, y, train, items, seed)
        return {name: Baseline(f"counts of the {WORDS:,} most common words", made) for name in made.values}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """Two classes."""
        return {metric.name: Reference(0.5, "one of two classes at random") for metric in METRICS}

    def pool(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Sentences that are no items."""
        asked = {item.group for item in items}
        rest = [item for item in self.read() if item.group not in asked]
        order = np.random.default_rng(seed_of(seed, "text_probe", "pool")).permutation(len(rest))[:2 * max(LABELS)]
        return [rest[i] for i in order]


def untrained(subject: Subject, seed: int = 0) -> Subject:
    """The same network with new weights: what `--against` is here, from scratch."""
    import copy
    import dataclasses

    from meristem.core.files import digest_bytes
    torch.manual_seed(seed_of(seed, "untrained"))
    module = copy.deepcopy(subject.module)
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
    return dataclasses.replace(subject, module=module, model_hash=digest_bytes(subject.model_hash, "untrained"),
                               name="untrained", folder=None)


@torch.no_grad()
def vectors(subject: Subject, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """The mean of the last layer over each text."""
    rows = [prompt_ids(subject.codec, text, True)[:subject.context] for text in texts]
    out = []
    with evaluating(subject.module):
        for start in range(0, len(rows), TOGETHER):
            tokens, real = padded(rows[start:start + TOGETHER])
            features = subject.module.features(tokens).float()         # type: ignore[operator]
            out.append((features * real[..., None]).sum(1) / real.sum(1, keepdim=True))
    return torch.cat(out)


def counts(texts: Sequence[str], place: dict[str, int]) -> Float[Tensor, "N W"]:
    """How often each known word stands in each text."""
    out = torch.zeros(len(texts), len(place))
    for row, text in enumerate(texts):
        for word in words(text):
            if word in place:
                out[row, place[word]] += 1
    return out


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"\w+", text.lower())


def measured(x: Tensor, more: Tensor, train: Sequence[Item], items: Sequence[Item], seed: int) -> Outcome:
    """The curve."""
    labels = [item.answer for item in train]
    values = {metric.name: curve(x, labels, more, items, n, seed) for metric, n in zip(METRICS, LABELS, strict=True)}
    return Outcome(values, {name: [1.0] * len(items) for name in values}, [])


TASK = TextProbe()
