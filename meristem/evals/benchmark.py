"""What benchmarks read from files share: `Choice` (which answer is likeliest) and `Written` (what the model writes).

A task states its file, where to get it, and how a row becomes an `Item`; this file asks and grades as lm_eval does
(Gao et al., https://github.com/EleutherAI/lm-evaluation-harness), so that scores can be compared: prompt and answer are
encoded together, no token stands before the prompt, an answer follows a space, a prompt that is too long loses its
beginning. `acc` takes the likeliest choice, `acc_norm` that of the largest log p a character (Brown et al. 2020,
section 2.4); `nats` is the cross-entropy over the choices, which moves before accuracy does (Schaeffer et al. 2023).

    meristem evaluate RUN --tasks piqa,arc --data FOLDER        # the files, or folders of them
"""
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from meristem.codecs.base import Codec, begin
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals import files
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Pair, Reference
from meristem.evals.bound import drawn
from meristem.evals.perturb import TYPOS, typos

CHUNK = 32                              # items between two signs of life
ASKED = ("Question: {}\nAnswer:", "Q: {}\nA:", "{}\nAnswer:", "{}\n", "Here is a question. {}\nThe answer is",
         "Please answer this question.\n{}\nAnswer:", "Exercise: {}\nSolution:", "User: {}\nAssistant:")


class Benchmark(ABC):
    """A task whose questions are in files of the user's."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    count: ClassVar[int] = 400
    url: ClassVar[str]                  # where the files are to be had
    folders: ClassVar[tuple[str, ...]] = ()                    # folders below the named one in which they may lie
    templates: tuple[str, ...] = ASKED
    perturbation: str = TYPOS

    def __init__(self, source: Path | None = None) -> None:
        self.source = source

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured."""

    @abstractmethod
    def read(self) -> list[Item]:
        """Every question."""

    def examples(self) -> list[Item]:
        """Worked examples, from another split than the questions where there is one."""
        return []

    def reading(self, file: Path) -> Self:
        """This task with a file's or a folder's questions."""
        made = copy.copy(self)
        made.source = file
        return made

    def rows(self, *names: str, fields: tuple[str, ...] = ()) -> list[files.Row]:
        """The rows of one of the task's files."""
        return files.rows(self._from(), *names, folders=self.folders, url=self.url, fields=fields)

    def members(self, *names: str) -> dict[str, str]:
        """The texts in one of the task's archives."""
        return files.members(self._from(), *names, folders=self.folders, url=self.url)

    def _from(self) -> Path:
        if self.source is None:
            raise RequestError(f"{self.name} reads its questions from files: --tasks {self.name} --data FOLDER (they "
                               f"are at {self.url})")
        return self.source

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` questions, in the file's order."""
        found = self.read()
        return drawn(found, limit, seed, self.name)

    def phrase(self, item: Item, template: str) -> Item:
        """The question under another template."""
        return replace(item, prompt=template.replace("{}", item.stem))

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """The questions with letters swapped."""
        changed = [replace(item, stem=typos(item.stem, seed)) for item in items]
        return [replace(new, prompt=old.prompt.replace(old.stem, new.stem)) if old.stem else old
                for old, new in zip(items, changed, strict=True)]

    def with_shots(self, corpus: Corpus, items: Sequence[Item], shots: int, seed: int) -> tuple[list[Item], list[str]]:
        """All after the same worked examples; RequestError when there are too few."""
        found = self.examples()
        if len(found) < shots:
            raise RequestError(f"{self.name}: {shots} worked examples were asked for and there are {len(found)}")
        order = np.random.default_rng(seed_of(seed, self.name, "shots")).permutation(len(found))[:shots]
        chosen = [found[i] for i in order]
        before = "".join(f"{example.prompt} {example.answer}\n\n" for example in chosen)
        return ([replace(item, prompt=before + item.prompt, contexts=tuple(before + c for c in item.contexts))
                 for item in items], [example.group for example in chosen])

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The reference answers are right by definition."""
        return {}


class Choice(Benchmark):
    """Items have `choices`, or `contexts` that one answer may follow; the likeliest is the model's."""

    normed: ClassVar[bool] = True       # also by log p a character

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """acc, acc_norm and nats."""
        by = [Metric(f"{self.name}_acc", f"{self.name}: questions whose likeliest answer is right", "share", "share",
                     True)]
        if self.normed:
            by.append(Metric(f"{self.name}_acc_norm", f"{self.name}: the same by log p a character", "share", "share",
                             True))
        return (*by, Metric(f"{self.name}_nats", f"{self.name}: cross-entropy of the right answer among the choices",
                            "nats", "ratio", False))

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The likeliest choice of each item."""
        found: list[list[float]] = []
        cut = 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            some, shorter = likelihoods(subject, items[start:start + CHUNK])
            found += some
            cut += shorter
        return replace(self.outcome(items, found), cut=cut)

    def outcome(self, items: Sequence[Item], found: Sequence[Sequence[float]]) -> Outcome:
        """The metrics of log-likelihoods that are there: a row an item, a number a choice."""
        names = [metric.name for metric in self.metrics]
        best = [int(np.argmax(row)) for row in found]
        long = [int(np.argmax(np.array(row) / [max(1, len(c)) for c in item.choices]))
                for item, row in zip(items, found, strict=True)]
        values = {names[0]: [float(b == i.right) for b, i in zip(best, items, strict=True)],
                  names[-1]: [surprise(row, i.right) for row, i in zip(found, items, strict=True)]}
        if self.normed:
            values[names[1]] = [float(b == i.right) for b, i in zip(long, items, strict=True)]
        return Outcome(values, {name: [1.0] * len(items) for name in values},
                       [item.choices[b] for item, b in zip(items, best, strict=True)])

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """One of the choices at random."""
        share = sum(1 / len(item.choices) for item in items) / len(items)
        nats = sum(log(len(item.choices)) for item in items) / len(items)
        return {metric.name: Reference(nats if metric.unit == "nats" else share, "one of the choices at random")
                for metric in self.metrics}

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The Kneser-Ney 5-gram of the training split on the same choices."""
        made = self.outcome(items, likelihoods(ngram(), items)[0])
        return {name: Baseline("Kneser-Ney 5-gram of the same training tokens", made) for name in made.values}


class Written(Benchmark):
    """The model continues the prompt greedily; what it writes up to a stop text is graded."""

    length: ClassVar[int] = 32          # tokens
    stops: ClassVar[tuple[str, ...]] = ("\n",)

    @abstractmethod
    def grade(self, item: Item, text: str) -> list[float]:
        """A number for each metric."""

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Greedy answers, graded."""
        outputs: list[str] = []
        cut = 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            some, shorter = written(subject, items[start:start + CHUNK], self.length, self.stops, seed)
            outputs += some
            cut += shorter
        return replace(self.outcome(items, outputs), cut=cut)

    def outcome(self, items: Sequence[Item], outputs: list[str]) -> Outcome:
        """The grades of texts that are there."""
        graded = [self.grade(item, text) for item, text in zip(items, outputs, strict=True)]
        values = {metric.name: [row[k] for row in graded] for k, metric in enumerate(self.metrics)}
        return Outcome(values, {name: [1.0] * len(items) for name in values}, outputs)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The one answer that is right most often among these very items: no constant can do better."""
        best = common([item.answer for item in items])
        made = self.outcome(items, [best] * len(items))
        return {name: Baseline(f"always {best[:40]!r}, the most common answer of these items", made)
                for name in made.values}


def likelihoods(subject: LanguageModel, items: Sequence[Item]) -> tuple[list[list[float]], int]:
    """log p of every choice of every item, and how many items lost the beginning of their prompt."""
    pairs: list[Pair] = []
    cut = 0
    asked = [[(context, f" {item.answer}") for context in item.contexts] if item.contexts else
             [(item.prompt, f" {choice}") for choice in item.choices] for item in items]
    every = iter(encode(subject.codec, [pair for row in asked for pair in row]))
    for row in asked:
        encoded = [next(every) for _ in row]
        room = [max(1, int(min(subject.room(1), 1 << 30)) + 2 - len(answer)) for _, answer in encoded]
        cut += any(len(prompt) > most for (prompt, _), most in zip(encoded, room, strict=True))
        pairs += [(prompt[-most:], answer) for (prompt, answer), most in zip(encoded, room, strict=True)]
    sums = iter(float(p.sum(dtype=np.float64)) for p in subject.score(pairs))
    return [[next(sums) for _ in item.choices] for item in items], cut


def encode(codec: Codec, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Ids of contexts and answers, encoded as one text (lm_eval's rule): the spaces at a context's end go to the
    answer.

    Without a context the end-of-document token stands for it.
    """
    moved = [(context.rstrip(), context[len(context.rstrip()):] + answer) for context, answer in pairs]
    texts = list(dict.fromkeys(text for context, answer in moved for text in (context, context + answer)))
    ids = {text: np.asarray(row, dtype=np.int64) for text, row in zip(texts, codec.encode_batch(texts), strict=True)}
    start = np.array([begin(codec)], dtype=np.int64)
    return [(ids[context] if context else start, ids[context + answer][len(ids[context]) if context else 0:])
            for context, answer in moved]


def written(subject: LanguageModel, items: Sequence[Item], length: int, stops: Sequence[str],
            seed: int) -> tuple[list[str], int]:
    """What the model goes on with after each prompt, up to the first stop text; and how many prompts were cut."""
    codec = subject.codec
    rows = [np.asarray(codec.encode(item.prompt), dtype=np.int64) for item in items]
    rows = [row if len(row) else np.array([begin(codec)]) for row in rows]
    done = subject.complete(rows, length, 0.0, seed)
    texts = [codec.decode(ids[ids != codec.end]) for ids in done]
    return [until(text, stops) for text in texts], sum(len(row) > subject.room(length) for row in rows)


def until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of some stop texts."""
    return text[:min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def surprise(row: Sequence[float], right: int) -> float:
    """-log of the right one's share of exp(row)."""
    top = max(row)
    return log(sum(exp(x - top) for x in row)) + top - row[right]


def common(answers: Sequence[str]) -> str:
    """The most common answer; of equally common ones the first in the alphabet."""
    count = dict.fromkeys(sorted(answers), 0)
    for answer in answers:
        count[answer] += 1
    return max(count, key=lambda answer: count[answer])
