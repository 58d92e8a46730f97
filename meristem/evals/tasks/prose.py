"""How written texts look beside people's: different words, repetition, and whether a classifier tells them apart.

    meristem evaluate RUN --corpus CORPUS --tasks prose

The model goes on with the beginnings of test documents at temperature 1, as long as the document itself does.
`distinct_2`: different pairs of words over all pairs (Li et al. 2016, https://arxiv.org/abs/1510.03055 section 5.2).
`repeated_4`: runs of four words that stood in the same text before (Welleck et al. 2019,
https://arxiv.org/abs/1908.04319 section 6.1). `told_apart`: the area under the ROC curve of a logistic regression on
counts of letters in threes, machine against human, each text judged by one that has not seen it; one half is
indistinguishable. Ceiling: the human texts. Baseline: the 5-gram's.
"""
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from meristem.codecs.base import Codec
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.classic import Logistic
from meristem.evals.statistics import placements
from meristem.evals.subject import prompt_ids

ON_REQUEST = True
GIVEN, LONG = 60, 240                   # characters of the beginning, and of what follows
FOLDS, BUCKETS, DECAY = 5, 1024, 1e-2
METRICS = (Metric("distinct_2", "different pairs of words in what the model writes", "share", "ratio", True),
           Metric("repeated_4", "runs of four words that the same text had before", "share", "ratio", False),
           Metric("told_apart", "area under the ROC curve: the model's texts against people's", "area", "ratio", False))


class Prose:
    """Items are beginnings; the answer is how the document goes on."""

    name, version, count = "prose", 1, 200
    metrics = METRICS

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Test documents that are long enough, each once."""
        found = [d for d in corpus.documents("test") if len(d.text) >= GIVEN + LONG]
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))[:limit]
        return [Item(d.id, d.text[:GIVEN], d.text[GIVEN:GIVEN + LONG], ends=False)
                for d in (found[i] for i in sorted(order))]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Texts of equal length, and what they are like."""
        codec = subject.codec
        length = max(len(codec.encode(item.answer)) for item in items)
        rows = [prompt_ids(codec, item.prompt, item.begins) for item in items]
        texts = [codec.decode(ids[ids != codec.end])[:LONG] for ids in subject.complete(rows, length, 1.0, seed)]
        return judged(texts, [item.answer for item in items], seed)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """What the 5-gram writes."""
        made = self.run(ngram(), items, seed, SILENT)
        return {metric.name: Baseline("Kneser-Ney 5-gram of the same training tokens", made) for metric in METRICS}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """People's own texts."""
        texts = [item.answer for item in items]
        both = [(sum(a), sum(b)) for a, b in (distinct(texts), repeated(texts))]
        values = [*(a / max(1, b) for a, b in both), 0.5]
        return {m.name: Reference(v, "the documents themselves") for m, v in zip(METRICS, values, strict=True)}


def judged(texts: Sequence[str], human: Sequence[str], seed: int) -> Outcome:
    """The three metrics, item by item."""
    found = [distinct(texts), repeated(texts), told_apart(texts, human, seed)]
    return Outcome({m.name: values for m, (values, _) in zip(METRICS, found, strict=True)},
                   {m.name: weights for m, (_, weights) in zip(METRICS, found, strict=True)}, list(texts))


def distinct(texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Pairs of words that no text before has (nor this one before), and all pairs, of each text."""
    seen, new, every = set[tuple[str, ...]](), list[float](), list[float]()
    for text in texts:
        pairs = runs(text, 2)
        fresh = set(pairs) - seen
        new.append(float(len(fresh)))
        every.append(float(len(pairs)))
        seen |= fresh
    return new, every


def repeated(texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Runs of four words that the same text had before, and all runs, of each text."""
    every = [runs(text, 4) for text in texts]
    return [float(len(some) - len(set(some))) for some in every], [float(len(some)) for some in every]


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    """Overlapping runs of n words."""
    words = text.lower().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def told_apart(texts: Sequence[str], human: Sequence[str], seed: int) -> tuple[list[float], list[float]]:
    """Values whose mean is the area; a text and the human one of its item are judged in one fold."""
    x = torch.from_numpy(np.stack([letters(t) for t in (*texts, *human)]))
    y = torch.tensor([1] * len(texts) + [0] * len(human))
    fold = np.random.default_rng(seed_of(seed, "folds")).permutation(len(texts)) % FOLDS
    both, score = np.concatenate([fold, fold]), np.zeros(2 * len(texts))
    for held in range(FOLDS):
        away = torch.from_numpy(both != held)
        if bool(away.all()):
            continue
        model = Logistic.fit(x[away], y[away], 2, DECAY)
        logits = ((x[~away] - model.mean) / model.scale) @ model.weight + model.bias
        score[~away.numpy()] = (logits[:, 1] - logits[:, 0]).numpy()
    found = np.array(placements(score.tolist(), y.bool().tolist()))
    return ((found[:len(texts)] + found[len(texts):]) / 2).tolist(), [1.0] * len(texts)


def letters(text: str) -> np.ndarray:
    """Counts of runs of three letters, hashed, as shares."""
    out = np.zeros(BUCKETS, np.float32)
    for i in range(len(text) - 2):
        out[zlib.crc32(text[i:i + 3].encode()) % BUCKETS] += 1
    return np.sqrt(out / max(1.0, out.sum()))


TASK = Prose()
