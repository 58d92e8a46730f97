"""Short answers to questions about pictures, with worked examples, and whether the pictures are used at all.

    meristem evaluate runs/llava --corpus runs/looks --tasks visual_answers
    meristem evaluate runs/flamingo --corpus runs/names --tasks visual_answers --shots 4

Items are test rows with an input and a target, and pictures; where a corpus has such rows without, they are asked too.
The control asks the same questions about noise: what is left of the score needs no picture. Baseline: the most common
training answer to the same question, which sees none. The score of each type of question (the row's label) stands
beside.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.corpus.store import Corpus
from meristem.data.conversations import Reader
from meristem.data.pictures import names_of, stored
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.bound import OnCorpus
from meristem.evals.subject import Subject
from meristem.generate.seeing import answers, sees

PICTURE = "\ufffc"                      # stands for a picture in a prompt as it is printed
SHARE = Metric("visual_answers", "questions about held-out pictures answered with exactly the right words", "share",
               "share", True)
NOISE = Metric("visual_answers_of_noise", "the same questions about noise, answered as if the picture were there",
               "share", "ratio", False)


class VisualAnswers(OnCorpus):
    """Items are test rows with a target; their worked examples are shown where shots are asked for."""

    name, version, count = "visual_answers", 1, 400

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The share, the control and, where rows say their type, one a type."""
        return SHARE, NOISE, *(Metric(f"visual_{kind}", f"of the questions of type {kind}", "share", "ratio", True)
                               for kind in self.types())

    def types(self) -> list[str]:
        """The types of questions of the corpus."""
        found = self._corpus.summary.get("labels", []) if self._corpus else []
        return found if 1 < len(found) <= 16 else []

    def fits(self, module: nn.Module) -> str:
        """A model that reads pictures among words is needed."""
        return "" if sees(module) else "this model reads no pictures among words"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` rows, without their worked examples."""
        found = list(_rows(corpus, "test"))
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))[:limit]
        return [Item(d.id, _prompt(d, 0), d.fields["target"]) for d in (found[i] for i in order)]

    def with_shots(self, corpus: Corpus, items: Sequence[Item], shots: int, seed: int) -> tuple[list[Item], list[str]]:
        """Each item after the first `shots` examples of its own row; RequestError when a row has fewer."""
        rows = {d.id: d for d in _rows(corpus, "test")}
        fewest = min(len(rows[item.group].fields.get("shots", ())) for item in items)
        if fewest < shots:
            raise RequestError(f"{shots} worked examples were asked for and the rows have {fewest}")
        return ([replace(item, prompt=_prompt(rows[item.group], shots)) for item in items],
                [f"#{n}" for n in range(shots)])

    def seen(self, items: Sequence[Item]) -> list[bool]:
        """Pictures of generated rows are drawn anew; that a whole row is in training is what its id tells."""
        train = {d.id for d in self.corpus.documents("train")}
        return [item.group in train for item in items]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Every question about its pictures, then about noise."""
        assert isinstance(subject, Subject)
        config: Any = subject.module.config
        documents = list(self.corpus.documents("test"))
        there = any(map(names_of, documents))
        pixels = stored(self.corpus, config.image, config.channels, several=True)["test"] if there else np.empty(0)
        first = dict(zip((d.id for d in documents), np.cumsum([0, *(len(names_of(d)) for d in documents)]),
                         strict=False))
        rows = {d.id: d for d in documents}
        fields, shown = [], []
        for item in items:
            document = rows[item.group]
            own = pixels[first[item.group]:first[item.group] + len(names_of(document))]
            count = _shots(item, document)
            shots = document.fields.get("shots", [])[:count]
            fields.append({**document.fields, "shots": shots})
            apart = len(own) == len(document.fields.get("shots", ())) + 1 > 1
            shown.append([*own[:count], own[-1]] if apart else list(own))
        rng = np.random.default_rng(seed_of(seed, self.name, "noise"))
        noise = [[rng.integers(0, 256, one.shape, dtype=np.uint8) for one in some] for some in shown]
        reader = Reader(subject.codec)
        length = max(len(subject.codec.encode(item.answer)) for item in items) + 2
        said, guessed = ([subject.codec.decode(ids) for ids in answers(subject.module, reader, fields, some, length)]
                         for some in (shown, noise))
        return self._outcome(items, [rows[item.group] for item in items], said, guessed)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The most common training answer to the same question, or to any."""
        train = [(d.fields.get("input", ""), d.fields["target"]) for d in _rows(corpus, "train")]
        asked = {question: Counter(a for q, a in train if q == question) for question in {q for q, _ in train}}
        usual = Counter(a for _, a in train)
        rows = {d.id: d for d in _rows(corpus, "test")}
        said = [_most(asked.get(rows[item.group].fields.get("input", ""), usual)) for item in items]
        made = self._outcome(items, [rows[item.group] for item in items], said, said)
        return {metric.name: Baseline("the most common training answer to the same question", made)
                for metric in self.metrics}

    def _outcome(self, items: Sequence[Item], rows: list[Document], said: list[str], guessed: list[str]) -> Outcome:
        right, blind = ([float(text.strip() == item.answer.strip()) for text, item in zip(some, items, strict=True)]
                        for some in (said, guessed))
        values = {SHARE.name: right, NOISE.name: [b * bool(names_of(d)) for b, d in zip(blind, rows, strict=True)]}
        weights = {SHARE.name: [1.0] * len(items), NOISE.name: [1.0 if names_of(d) else 1e-9 for d in rows]}
        labels = [d.fields.get("label", "") for d in rows]
        for metric, kind in zip(self.metrics[2:], self.types(), strict=True):  # a draw without the type is no 0 / 0
            weights[metric.name] = [1.0 if label == kind else 1e-9 for label in labels]
            values[metric.name] = [r * (label == kind) for r, label in zip(right, labels, strict=True)]
        return Outcome(values, weights, said)


def _rows(corpus: Corpus, split: str) -> list[Document]:
    return [d for d in corpus.documents(split) if "input" in d.fields and d.fields.get("target")]


def _prompt(document: Document, shots: int) -> str:
    """A row as it is printed, with so many of its examples."""
    fields = document.fields
    before = "".join(f"{PICTURE}{q}{a}\n" for q, a in fields.get("shots", [])[:shots])
    count = 1 if fields.get("shots") else len(names_of(document))
    return before + PICTURE * count + fields.get("input", "")


def _shots(item: Item, document: Document) -> int:
    """How many examples a prompt shows."""
    return item.prompt.count("\n") if document.fields.get("shots") else 0


def _most(count: Counter[str]) -> str:
    return max(count.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))[0]


TASK = VisualAnswers()
