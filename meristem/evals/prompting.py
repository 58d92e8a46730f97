"""Prompts: worked examples before a question, and a sweep over templates that reports best, median and worst.

    shots = Shots(examples, count=4, how="balanced")
    found = sweep(templates, rows, lambda prompts: [m.text for m in model.complete(prompts)], shots)
    print(found.describe())                            # best 71.3 % (...) with '{}\\nlabel:', median ..., worst ...

A template is a text with `{}` where the question stands; what is written after it is the answer, up to the end of its
line. Worked examples are in the same template (Brown et al. 2020, https://arxiv.org/abs/2005.14165 section 2.4), chosen
`balanced` over the answers, or `near`: those that share the question's words (kNN prompts: Liu et al. 2021,
https://arxiv.org/abs/2101.06804), the nearest last. How much a score hangs on the wording is a measure of its own
(Sclar et al. 2023, https://arxiv.org/abs/2310.11324); certificates have the same spread for their own tasks (`phrasing`
in docs/scores.md), this is for rows of yours.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.evals.statistics import Difference, Interval, mcnemar, wilson
from meristem.generate.retrieve.store import Store

Row = tuple[str, str]                   # a question and its right answer
Ask = Callable[[list[str]], Sequence[str]]                     # prompts to what is written after each
HOLE = "{}"


@dataclass(frozen=True)
class Shots:
    """Worked examples to choose from; `room` bounds a prompt (in the unit of `size`), the farthest are left out."""

    examples: Sequence[Row]
    count: int = 4
    how: Literal["balanced", "near"] = "balanced"
    room: int = 0                       # 0: no bound
    size: Callable[[str], int] = len    # of a prompt: characters, or lambda text: len(codec.encode(text))
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.count <= len(self.examples):
            raise RequestError(f"{self.count} worked examples were asked for and there are {len(self.examples)}")

    def before(self, question: str) -> list[Row]:
        """The examples to show before a question, the most telling last; never the question itself."""
        if self.how == "near":
            found = [int(hit.chunk.source) for hit in self._store.search(question, self.count + 1, "words")]
            some = [n for n in found if self.examples[n][0] != question]
            some += [n for n in range(len(self.examples)) if n not in found]       # nothing shares a word
            return [self.examples[n] for n in some[:self.count]][::-1]
        return [row for row in self._balanced if row[0] != question][:self.count]

    def prompt(self, template: str, question: str) -> str:
        """The whole prompt. RequestError where the question alone has no room, or a template has no hole."""
        if template.count(HOLE) != 1:
            raise RequestError(f"a template has {HOLE} once, where the question stands: {template!r}")
        shown = self.before(question)
        while True:
            text = "".join(f"{_put(template, q)}{a}\n" for q, a in shown) + _put(template, question)
            if not self.room or self.size(text) <= self.room:
                return text
            if not shown:
                raise RequestError(f"the question {question[:40]!r} alone does not fit in {self.room}")
            shown = shown[1:]

    @cached_property
    def _balanced(self) -> list[Row]:
        """All examples, one of each answer in turn, in a seeded order."""
        order = np.random.default_rng(seed_of(self.seed, "shots")).permutation(len(self.examples))
        by: dict[str, list[Row]] = {}
        for n in order:
            by.setdefault(self.examples[n][1], []).append(self.examples[n])
        rounds = max(map(len, by.values()), default=0)
        return [rows[n] for n in range(rounds) for rows in by.values() if n < len(rows)]

    @cached_property
    def _store(self) -> Store:
        return Store.of([Document("", str(n), "", {"text": q}) for n, (q, _) in enumerate(self.examples)],
                        size=max(map(len, (q for q, _ in self.examples))) + 1, overlap=0)


NONE = Shots((), 0)


@dataclass(frozen=True)
class Sweep:
    """How often each template gets the right answer, over the same rows."""

    right: dict[str, list[bool]]
    shots: int = 0
    ranked: list[str] = field(init=False)                      # the templates, the best first

    def __post_init__(self) -> None:
        order = sorted(self.right, key=lambda t: -sum(self.right[t]))
        object.__setattr__(self, "ranked", order)

    def share(self, template: str) -> tuple[float, Interval]:
        """A template's accuracy and its Wilson interval."""
        hits = self.right[template]
        return sum(hits) / len(hits), wilson(sum(hits), len(hits))

    @property
    def median(self) -> str:
        """The template in the middle (of an even number the worse of the two)."""
        return self.ranked[len(self.ranked) // 2]

    @property
    def apart(self) -> Difference:
        """The best beside the worst, on the same rows."""
        return mcnemar(*([float(hit) for hit in self.right[t]] for t in (self.ranked[0], self.ranked[-1])))

    def describe(self) -> str:
        """Best, median and worst in one line each."""
        rows = (("best", self.ranked[0]), ("median", self.median), ("worst", self.ranked[-1]))
        lines = [f"{name:6} {(found := self.share(t))[0]:.1%} ({found[1].low:.1%} to {found[1].high:.1%}) with {t!r}"
                 for name, t in rows]
        return "\n".join([*lines, f"spread {self.apart.value * 100:.1f} points, p {self.apart.p:.2g}, "
                                  f"{len(self.ranked)} templates, {self.shots} worked examples"])


def sweep(templates: Sequence[str], rows: Sequence[Row], ask: Ask, shots: Shots = NONE) -> Sweep:
    """Ask every row in every template. RequestError for no rows, or fewer than two templates."""
    if len(set(templates)) < 2 or not rows:
        raise RequestError("a sweep needs rows and at least two templates; how much the wording matters takes eight")
    right = {}
    for template in dict.fromkeys(templates):
        said = ask([shots.prompt(template, question) for question, _ in rows])
        right[template] = [text.strip().split("\n")[0].strip() == answer.strip()
                           for text, (_, answer) in zip(said, rows, strict=True)]
    return Sweep(right, shots.count)


def _put(template: str, question: str) -> str:
    return template.replace(HOLE, question, 1)
