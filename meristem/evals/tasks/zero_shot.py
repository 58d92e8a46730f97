"""Zero-shot classification: the class of a picture is the one whose name, put into sentences, lies nearest to it.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1: names are put into templates ("a picture of a {}"),
and the vectors of all templates are averaged (section 3.1.4). How much a score hangs on the phrasing is reported beside
it: the best, the median and the worst template alone, and how far the best lies above the worst. The classes to choose
from are those of the test split. `--tasks zero_shot=FILE` reads other templates, one a line, each with {}.

    meristem evaluate runs/clip --corpus CORPUS --tasks zero_shot

Baseline without a network: the class that shares most words with the caption of the nearest training picture.
"""
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.pictures import RAW, shape, vectors
from meristem.evals.subject import Subject
from meristem.evals.towers import Compared, looked_up, text_vectors, training

TEMPLATES = ("{}", "a {}", "a picture of a {}", "a small picture of a {}", "an icon of a {}", "a drawing of a {}",
             "this is a {}", "the {}", "a bright picture of a {}", "{}, a picture")
SHARE = Metric("zero_shot", "pictures whose class is named by its sentence alone, over all templates", "share",
               "share", True)
ALONE = tuple(Metric(f"zero_shot_{word}", f"the same with the {word} of the templates alone", "share", "share", True)
              for word in ("best", "median", "worst"))
SPREAD = Metric("zero_shot_spread", "how far the best template lies above the worst", "share", "ratio", False)


class ZeroShot(Compared):
    """Items are labelled test pictures."""

    name, version, count = "zero_shot", 1, 10_000
    metrics = (SHARE, *ALONE, SPREAD)
    templates: tuple[str, ...] = TEMPLATES

    def reading(self, file: Path) -> "ZeroShot":
        """With a file's templates; RequestError for a line without {}."""
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{file} cannot be read: {error}") from None
        if not lines or any(line.count("{}") != 1 for line in lines):
            raise RequestError(f"{file} holds templates, one a line, each with {{}} where the class's name stands")
        made = copy.copy(self)
        made.templates = tuple(lines)
        return made

    def items(self, corpus: Corpus, codec: Any, limit: int, seed: int) -> list[Item]:
        """At most `limit` labelled pictures; the templates are asked, too, so they belong to each prompt."""
        found = super().items(corpus, codec, limit, seed)
        return [Item(i.group, f"{i.prompt}\n" + "\n".join(self.templates), i.answer) for i in found]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The cosine of each picture with each class under each template, then their mean."""
        assert isinstance(subject, Subject)
        pictures = vectors(subject.module, self.asked(items, *shape(subject.module)).pixels)
        names = classes(items)
        texts = text_vectors(subject, [t.format(name) for t in self.templates for name in names])
        each = texts.unflatten(0, (len(self.templates), len(names)))
        whole = F.normalize(each.mean(0), dim=-1)
        single = [right(pictures @ one.T, names, items) for one in each]
        return outcome(pictures @ whole.T, names, items, single)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The nearest training picture's caption, and a guess."""
        names = classes(items)
        near = outcome(looked_up(training(self), self.asked(items, RAW, 3), names), names, items, [])
        guess = Outcome({SHARE.name: [1 / len(names)] * len(items)}, near.weights, [])
        return {SHARE.name: Baseline("the class that shares most words with the nearest training picture's caption",
                                     near),
                f"{SHARE.name}/guess": Baseline(f"a guess among {len(names)} classes", guess)}


def classes(items: Sequence[Item]) -> list[str]:
    """What may be answered: the labels of all items, sorted."""
    return sorted({item.answer for item in items})


def right(scores: Tensor, names: list[str], items: Sequence[Item]) -> list[float]:
    """1 where the largest of a row's scores [N, L] is its item's class."""
    return [float(names[best] == item.answer) for best, item in zip(scores.argmax(1).tolist(), items, strict=True)]


def outcome(scores: Tensor, names: list[str], items: Sequence[Item], single: list[list[float]]) -> Outcome:
    """The ensemble's answers and, where there are any, those of each template alone."""
    values = {SHARE.name: right(scores, names, items)}
    if single:
        order = torch.tensor([sum(one) for one in single]).argsort(stable=True).tolist()
        worst, median, best = (single[order[at]] for at in (0, len(order) // 2, -1))
        values |= {metric.name: some for metric, some in zip(ALONE, (best, median, worst), strict=True)}
        values[SPREAD.name] = [a - b for a, b in zip(best, worst, strict=True)]
    weights = {name: [1.0] * len(items) for name in values}
    return Outcome(values, weights, [names[best] for best in scores.argmax(1).tolist()])


TASK = ZeroShot()
