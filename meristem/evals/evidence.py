"""What stands in a certificate beside the score: the perturbed twin, the spread over templates, and the contamination.

A score that falls when names, numbers or spelling change was learned by heart; one that hangs on the words around the
question is a score of those words (Sclar et al. 2023, https://arxiv.org/abs/2310.11324). Both are asked of the same
model right after the items themselves, and kept in the same file.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from meristem.evals.base import (
    Contamination,
    Item,
    Metric,
    Outcome,
    Phrased,
    Phrasing,
    Task,
    Twin,
    Twinned,
    compare,
    measure,
)
from meristem.evals.contamination import Overlap
from meristem.evals.statistics import inflation

FEW = 64                                # items asked under every template

Ask = Callable[[list[Item]], Outcome]
Show = Callable[[list[Item]], tuple[list[Item], list[str]]]     # items after worked examples, and the examples' ids


@dataclass(frozen=True)
class Beside:
    """The answers to the twin, and to the first items under each template."""

    how: str = ""
    twin: Outcome | None = None
    phrasings: list[tuple[str, Outcome]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)            # of the items of the phrasings


def asked_beside(task: Task, items: Sequence[Item], shown: Show, ask: Ask, seed: int) -> Beside:
    """Ask what the task has: `shown` puts the worked examples before items, `ask` asks them."""
    how, twin = "", None
    if isinstance(task, Twinned) and task.perturbation:
        how, twin = task.perturbation, ask(shown(task.twin(items, seed))[0])
    few = list(items[:FEW])
    templates = task.templates if isinstance(task, Phrased) and shown(few)[0] == few else ()   # zero-shot scores only
    phrasings = [(template, ask([task.phrase(item, template) for item in few])) for template in templates
                 if isinstance(task, Phrased)]
    return Beside(how, twin, phrasings, [item.group for item in few])


def twin_of(metric: Metric, outcome: Outcome, beside: Beside, groups: Sequence[str], seed: int) -> Twin | None:
    """The twin's score and its paired test against the score itself."""
    if beside.twin is None:
        return None
    value, interval = measure(metric, beside.twin, groups, seed)
    gap = compare(metric, outcome, beside.twin, groups, seed)
    return Twin(beside.how, len(groups), value, interval, gap.value, gap.interval, gap.p, gap.test)


def phrasing_of(metric: Metric, beside: Beside, seed: int) -> Phrasing | None:
    """The metric under each template."""
    if not beside.phrasings:
        return None
    values = tuple(measure(metric, outcome, beside.groups, seed)[0] for _, outcome in beside.phrasings)
    return Phrasing(len(beside.groups), tuple(template for template, _ in beside.phrasings), values, min(values),
                    median(values), max(values))


def contamination_of(metric: Metric, outcome: Outcome, overlaps: Sequence[Overlap], index: str, groups: Sequence[str],
                     seed: int) -> Contamination:
    """How many items are in training, the score of those that are not, and what the others add to it."""
    clean = np.array([o.clean for o in overlaps])
    clean &= np.array(outcome.weights[metric.name]) > 0        # of the items that this metric is about
    value, interval = measure(metric, outcome, groups, seed, clean) if clean.any() else (None, None)
    gap, around = (inflation(outcome.values[metric.name], outcome.weights[metric.name], clean, groups, seed)
                   if value is not None and not clean.all() else (None if value is None else 0.0, None))
    return Contamination(index, sum(o.exact for o in overlaps), sum(o.seen > 0 for o in overlaps),
                         sum(o.runs == 0 for o in overlaps), int(clean.sum()), value, interval, gap, around)
