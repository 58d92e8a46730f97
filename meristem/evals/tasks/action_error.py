"""How far a policy's actions lie from the demonstrated ones, on held-out steps: behaviour cloning, judged open loop.

    meristem evaluate runs/bridge --corpus runs/demonstrations --tasks action_error

Items are test rows with an action. The error is the mean absolute difference a number, in the units of the row (-1 to
1); the share counts actions of which every number falls into its bin of 256 or the next. Beside it the control: another
step's frame in place of the own. Baseline: the mean action of training.
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from meristem.codecs.action import BINS
from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.corpus.store import Corpus
from meristem.data.pictures import names_of, stored
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.bound import OnCorpus
from meristem.evals.subject import Subject
from meristem.generate.acting import Actor
from meristem.generate.seeing import TOGETHER, sees

METRICS = (
    Metric("action_error", "distance from the demonstrated action, a number", "of -1 to 1", "ratio", False),
    Metric("action_error_elsewhere", "the same with the frame of another step", "of -1 to 1", "ratio", False),
    Metric("action_bins", "actions of which every number is in the right bin or the next", "share", "ratio", True))


class ActionError(OnCorpus):
    """Items are test rows with an action."""

    name, version, count = "action_error", 1, 400
    metrics = METRICS

    def fits(self, module: nn.Module) -> str:
        """A model that reads pictures among words is needed."""
        return "" if sees(module) else "this model reads no pictures among words"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` steps."""
        found = [d for d in corpus.documents("test") if "action" in d.fields]
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))[:limit]
        return [Item(d.id, d.fields.get("input", ""), " ".join(map(str, d.fields["action"])))
                for d in (found[i] for i in order)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The likeliest action of every row, with its own frame and with the next item's."""
        assert isinstance(subject, Subject)
        rows, frames = self._rows(items), self._frames(items, vars(subject.module.config))
        actor = Actor(subject.module, subject.codec, len(_numbers(items[0])))
        said = [self._said(actor, rows, some, progress) for some in (frames, [*frames[1:], *frames[:1]])]
        return _outcome(items, *said)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The mean training action."""
        mean = np.mean([d.fields["action"] for d in corpus.documents("train") if "action" in d.fields], axis=0)
        made = _outcome(items, [mean] * len(items), [mean] * len(items))
        return {metric.name: Baseline("the mean action of training", made) for metric in METRICS}

    def _rows(self, items: Sequence[Item]) -> list[Document]:
        rows = {d.id: d for d in self.corpus.documents("test")}
        return [rows[item.group] for item in items]

    def _frames(self, items: Sequence[Item], config: dict[str, Any]) -> list[list[np.ndarray]]:
        documents = list(self.corpus.documents("test"))
        counts = [len(names_of(d)) for d in documents]
        if not any(counts):
            return [[] for _ in items]
        pixels = stored(self.corpus, config["image"], config["channels"], several=True)["test"]
        ends = np.cumsum(counts)
        own = {d.id: list(pixels[end - n:end]) for d, n, end in zip(documents, counts, ends, strict=True)}
        return [own[item.group] for item in items]

    def _said(self, actor: Actor, rows: list[Document], frames: list[list[np.ndarray]],
              progress: Progress) -> list[np.ndarray]:
        out: list[np.ndarray] = []
        for start in range(0, len(rows), TOGETHER):
            some = slice(start, start + TOGETHER)
            out += actor.of([{k: v for k, v in d.fields.items() if k != "action"} for d in rows[some]], frames[some])
            progress.update(len(out))
        return out


def _numbers(item: Item) -> np.ndarray:
    return np.array([float(word) for word in item.answer.split()])


def _outcome(items: Sequence[Item], said: Sequence[np.ndarray], elsewhere: Sequence[np.ndarray]) -> Outcome:
    true = [_numbers(item) for item in items]
    errors = [[float(np.abs(a - b).mean()) for a, b in zip(true, some, strict=True)] for some in (said, elsewhere)]
    near = [float((np.abs(a - b) < 3 / BINS).all()) for a, b in zip(true, said, strict=True)]
    values = dict(zip((m.name for m in METRICS), (*errors, near), strict=True))
    return Outcome(values, {name: [1.0] * len(items) for name in values}, [])


TASK = ActionError()
