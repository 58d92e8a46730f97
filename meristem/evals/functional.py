"""Functional correctness: answers that are programs are run on their tests, and counted by pass@k.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code", https://arxiv.org/abs/2107.03374, section 2.1:
of n answers to a problem c pass; pass@k is the chance that one of k drawn without replacement is among them,

    pass@k = 1 - C(n - c, k) / C(n, k)          (equation 1; 1 - (1 - c/n)^k would be biased)

and a score is its mean over the problems. `Functional` is the part that such tasks share: it samples n answers, cuts
each at the end of its function, leaves out what does not parse, and runs every different one in `core.sandbox`. An
answer passes when its program comes to its last line, which prints a number drawn for that run: leaving early is not
passing. A program that sets out to deceive its tests still can, as with every test that runs beside what it tests.
"""
import ast
import os
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from meristem.codecs.base import Codec
from meristem.core import sandbox
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.sandbox import Limits
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import prompt_ids
from meristem.evals.tasks.function_bodies import body
from meristem.evals.tasks.parses_as_python import parse

CHUNK = 8                               # problems sampled at once
LIMITS = Limits(seconds=3.0)            # what HumanEval allows a program


def pass_at(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k from n answers of which `correct` passed; RequestError for k beyond n."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise RequestError(f"pass@{k} of {n} answers with {correct} right: k must be 1 to n, and 0 to n can be right")
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


def metric(k: int) -> Metric:
    """The metric of one k: a mean over problems, whose interval is bootstrapped."""
    return Metric(f"pass_at_{k}", f"problems solved by one of {k} answers", "share", "ratio", True)


def program(prompt: str, text: str) -> str:
    """The prompt and the block that begins `text`, which is where a function ends."""
    head, _, tail = prompt.rpartition("\n")
    return f"{head if tail.isspace() or not tail else prompt}\n{body(prompt, text)}\n"


class Functional:
    """A task whose items carry their tests in `suffix`; subclasses say which items there are."""

    name: ClassVar[str]
    version: ClassVar[int]
    count: ClassVar[int]
    samples = 200                       # answers to each problem
    ks: tuple[int, ...] = (1, 10, 100)
    temperature = 0.8
    length = 96                         # tokens of an answer

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """pass@k for each k."""
        return tuple(metric(k) for k in self.ks)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Sample, then run; MachineError before anything is sampled where there is no sandbox."""
        sandbox.require()
        codec, answers, cut = subject.codec, list[list[str]](), 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            some = items[start:start + CHUNK]
            rows = [prompt_ids(codec, item.prompt, item.begins) for item in some]
            cut += sum(len(ids) > subject.room(self.length) for ids in rows)
            done = subject.complete([ids for ids in rows for _ in range(self.samples)], self.length, self.temperature,
                                    seed_of(seed, self.name, start))
            texts = [codec.decode(ids[ids != codec.end]) for ids in done]
            answers += [texts[n:n + self.samples] for n in range(0, len(texts), self.samples)]
        return self.outcome(items, answers, cut)

    def outcome(self, items: Sequence[Item], answers: Sequence[Sequence[str]], cut: int = 0,
                joined: Callable[[str, str], str] = program) -> Outcome:
        """The pass@k of answers that are there; each item has as many as it has. `joined` makes them programs."""
        passed = judge(items, [[joined(item.prompt, text) for text in texts]
                               for item, texts in zip(items, answers, strict=True)])
        values = {metric(k).name: [pass_at(len(row), sum(row), k) for row in passed] for k in self.ks}
        shown = [next((text for text, right in zip(texts, row, strict=True) if right), texts[0])
                 for texts, row in zip(answers, passed, strict=True)]
        return Outcome(values, {name: [1.0] * len(items) for name in values}, shown, cut)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The one function that may be right without reading the docstring: it returns its first argument."""
        made = self.outcome(items, [[first_argument(item.prompt)] * max(self.ks) for item in items])
        return {name: Baseline("a function that returns its first argument", made) for name in made.values}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The reference answers pass."""
        return {}


def judge(items: Sequence[Item], programs: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Which programs come through the tests of their item; equal ones are run once."""
    wanted: dict[tuple[int, str], str] = {}
    keys = [[(n, _same(source)) for source in sources] for n, sources in enumerate(programs)]
    for row, sources in zip(keys, programs, strict=True):
        for (n, key), source in zip(row, sources, strict=True):
            if key:
                wanted.setdefault((n, key), source)
    marks = [os.urandom(8).hex() for _ in wanted]
    ran = sandbox.run_many([f"{source}{items[n].suffix}\nprint({mark!r})\n"
                            for ((n, _), source), mark in zip(wanted.items(), marks, strict=True)], LIMITS)
    good = {key for key, one, mark in zip(wanted, ran, marks, strict=True)
            if one.ok and one.output.rstrip("\n").endswith(mark)}
    return [[key in good for key in row] for row in keys]


def answered(items: Sequence[Item], samples: Iterable[tuple[str, str]]) -> list[list[str]]:
    """(group, text) pairs by item; RequestError for a group that is no item's and for an item without answers."""
    found: dict[str, list[str]] = {item.group: [] for item in items}
    for group, text in samples:
        if group not in found:
            raise RequestError(f"an answer to {group!r}, which is not one of the {len(items)} problems")
        found[group].append(text)
    if empty := [group for group, texts in found.items() if not texts]:
        raise RequestError(f"no answer to {empty[0]!r}" + (f" and {len(empty) - 1} others" if empty[1:] else ""))
    return list(found.values())


def first_argument(prompt: str) -> str:
    """The body `return FIRST` of the last function that a prompt begins."""
    tree = parse(f"{prompt}\n    pass\n")
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if tree else []
    names = [a.arg for a in functions[-1].args.args] if functions else []
    return f"\n    return {names[0] if names else None}"


def _same(source: str) -> str:
    """What two programs share when they differ in spacing and comments alone; "" when one does not parse."""
    tree = parse(source)
    return ast.dump(tree) if tree is not None else ""
