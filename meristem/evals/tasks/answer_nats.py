"""Surprise at the right answer: -log p of what `exact_answer` wants to read, which moves long before it is written.

A skill that seems to appear at once in a count of right answers comes on gradually in their probability: Schaeffer et
al. 2023, https://arxiv.org/abs/2304.15004; Wei et al. 2022, https://arxiv.org/abs/2206.07682, saw both. The same
questions as `exact_answer` asks, with or without worked examples. Baseline: the 5-gram.

    meristem evaluate RUN --corpus CORPUS --tasks exact_answer,answer_nats --shots 4
"""
from collections.abc import Callable, Sequence

import numpy as np

from meristem.core.progress import SILENT, Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.subject import answer_ids, prompt_ids
from meristem.evals.tasks.exact_answer import CHUNK, ExactAnswer

ON_REQUEST = True
METRIC = Metric("answer_nats", "surprise at a right answer and the end of its line", "nats", "ratio", False)


class AnswerNats(ExactAnswer):
    """Items and worked examples of `exact_answer`."""

    name, version, count = "answer_nats", 1, 400
    metrics = (METRIC,)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """-log p of every answer; a prompt that is too long loses its beginning."""
        codec, nats = subject.codec, list[float]()
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            pairs = []
            for item in items[start:start + CHUNK]:
                answer = answer_ids(codec, f"{item.answer}\n", False)
                room = int(min(subject.room(1), 1 << 30)) + 2 - len(answer)
                pairs.append((prompt_ids(codec, item.prompt, item.begins)[-room:], answer))
            nats += [float(-p.sum(dtype=np.float64)) for p in subject.score(pairs)]
        return Outcome({METRIC.name: nats}, {METRIC.name: [1.0] * len(items)}, [])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The Kneser-Ney 5-gram."""
        made = self.run(ngram(), items, seed, SILENT)
        return {METRIC.name: Baseline("Kneser-Ney 5-gram of the same training tokens", made)}


TASK = AnswerNats()
