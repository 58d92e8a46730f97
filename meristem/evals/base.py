"""What a score is: `Score`, a certificate, and what makes one: `Task`, `Item`, `Outcome` and the model asked.

No function of the library returns a bare number. A `Score` carries its n, 95 % interval, baseline, prompt hash, seed,
model and corpus hashes, contamination evidence, and a paired test against the score it is printed beside.
`core.config.to_dict` writes one as JSON, `core.config.from_dict(Score, tree)` reads it back. How to read one:
docs/scores.md.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from meristem.core.config import to_dict
from meristem.core.files import digest_bytes
from meristem.core.progress import Progress
from meristem.evals.statistics import Difference, Interval, bootstrap, effective_items, mcnemar, permutation, wilson
from meristem.plan.energy import Energy

if TYPE_CHECKING:
    from torch import nn

    from meristem.codecs.base import Codec
    from meristem.corpus.store import Corpus

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A number a score is read against: a baseline that needs no network, or what the human text itself gets."""

    value: float
    what: str


@dataclass(frozen=True)
class Contamination:
    """Overlap of the test items with the training documents of this corpus, and the score without those items.

    `exact`: items whose whole text is in training; `gram13`: items that share at least one run of 13 words with
    training; `short`: items under 13 words, which only the exact check can see. Clean items share no run at all.
    """

    index: str
    exact: int
    gram13: int
    short: int
    clean_n: int
    clean_value: float | None
    clean_interval: Interval | None
    inflation: float | None = None      # value - clean_value: how much of the score hangs on items seen in training
    inflation_interval: Interval | None = None


@dataclass(frozen=True)
class Twin:
    """The same questions a little changed (`how`): who has learned them by heart falls, who understood them does not.

    `difference` is the score minus the twin's, item by item.
    """

    how: str
    n: int
    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    p: float
    test: str


@dataclass(frozen=True)
class Phrasing:
    """The score under each of some templates, on the first `n` items: how much of it hangs on the prompt's words."""

    n: int
    templates: tuple[str, ...]
    values: tuple[float, ...]
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Paired:
    """The same items under another model: ours minus theirs."""

    against: str
    difference: float
    interval: Interval
    p: float
    test: str


@dataclass(frozen=True)
class Score:
    """One certificate. `value` is in `unit`; hashes name exactly what was judged on exactly what."""

    name: str
    what: str
    task: str
    version: int
    value: float
    unit: str
    higher_is_better: bool
    n: int
    interval: Interval
    baseline: Reference | None
    ceiling: Reference | None
    prompt_hash: str
    seed: int
    model_hash: str
    corpus_hash: str
    contamination: Contamination | None
    paired: Paired | None
    seconds: float
    cut: int = 0                        # prompts whose beginning did not fit the model's context and was left out
    beside: tuple[Reference, ...] = ()  # more baselines than the first
    shots: list[str] = field(default_factory=list)     # ids of the worked examples before each question (FewShot)
    chance: Reference | None = None     # what a guess gets, where that is defined
    twin: Twin | None = None            # None: the task has none, or it was left out (--quick)
    phrasing: Phrasing | None = None    # the same
    energy: Energy | None = None        # of asking this model these items, `seconds` long

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as evals/*.json holds them."""
        return to_dict(self)


@dataclass(frozen=True)
class Metric:
    """How items become one number. A share counts right answers; a ratio sums values over weights (bits over bytes)."""

    name: str
    what: str
    unit: str
    kind: Literal["share", "ratio"]
    higher_is_better: bool


@dataclass(frozen=True)
class Item:
    """One question of a task: the model reads `prompt`; `answer` is the reference. Items of one `group` are dependent.

    `begins`: the prompt starts where its document starts, so the model reads the end-of-document token before it;
    `ends`: the answer closes its document, so the end token belongs to it; `suffix`: what follows the answer there.
    `choices`: what may be answered, the one numbered `right` is; `contexts`: the prompt of each choice, where they
    differ. `stem`: the bare question, which templates and perturbed twins are made of. `evidence`: the text that is
    looked for in training; by default prompt and answer.
    """

    group: str
    prompt: str
    answer: str
    begins: bool = True
    ends: bool = True
    suffix: str = ""
    choices: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    right: int = -1
    stem: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class Outcome:
    """One model's results: metric name -> a value and a weight an item; `outputs` are its texts (may be empty)."""

    values: dict[str, list[float]]
    weights: dict[str, list[float]]
    outputs: list[str]
    cut: int = 0                        # prompts of which the model saw only the end


class LanguageModel(Protocol):
    """What a task may ask of the thing it judges; satisfied by a network (`Subject`) and by the 5-gram."""

    @property
    def codec(self) -> "Codec":
        """The codec of prompts and answers."""
        ...

    def score(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """For (prompt ids, answer ids): natural log p of each answer token given all before it."""
        ...

    def complete(self, prompts: Sequence[np.ndarray], length: int, temperature: float, seed: int) -> list[np.ndarray]:
        """Up to `length` new ids a prompt, ending early after an end token (kept); temperature 0 is greedy."""
        ...

    def room(self, length: int) -> float:
        """The last so many tokens of a prompt are what `complete` reads to write `length` new ones."""
        ...


@dataclass(frozen=True)
class Baseline:
    """A model-free outcome for one metric, and what it is in words."""

    what: str
    outcome: Outcome


class Task(Protocol):
    """One benchmark: its questions and how answers become numbers. One file of `evals/tasks/` holds one as `TASK`."""

    name: str
    version: int
    count: int
    metrics: tuple[Metric, ...]

    def items(self, corpus: "Corpus", codec: "Codec", limit: int, seed: int) -> list[Item]:
        """At most `limit` items of the corpus's test split; a pure function of the arguments."""
        ...

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Ask `subject` every item."""
        ...

    def baselines(self, corpus: "Corpus", items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """A baseline for every metric; `ngram()` is the 5-gram of the training split (fitted at the first call).

        More baselines of a metric are called METRIC/ANYTHING and stand beside the first.
        """
        ...

    def ceiling(self, items: Sequence[Item], codec: "Codec") -> dict[str, Reference]:
        """What the reference answers themselves score, where that is not simply perfect."""
        ...


@runtime_checkable
class FewShot(Protocol):
    """A task whose questions can follow worked examples (shots), as GPT-3 was asked: Brown et al. 2020, section 2.4."""

    def with_shots(self, corpus: "Corpus", items: Sequence[Item], shots: int,
                   seed: int) -> tuple[list[Item], list[str]]:
        """The items with `shots` worked examples before each prompt, and the examples' ids.

        An id is that of a training document, or `#n` for the n-th worked example in the item's own document.
        """
        ...


@runtime_checkable
class Guessed(Protocol):
    """A task of which it is known what a guess gets."""

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """Metric name -> the expected value of a guess."""
        ...


@runtime_checkable
class OfTraining(Protocol):
    """A task that asks about training documents on purpose, so that overlap with training says nothing."""

    of_training: bool


@runtime_checkable
class Twinned(Protocol):
    """A task whose questions have a perturbed twin."""

    perturbation: str

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Each item a little changed, with its right answer; an item that cannot be is left as it is."""
        ...


@runtime_checkable
class Phrased(Protocol):
    """A task that can be asked in other words."""

    templates: tuple[str, ...]          # {} is the question; the first is the one it is asked with

    def phrase(self, item: Item, template: str) -> Item:
        """The item under another template."""
        ...


@runtime_checkable
class Bound(Protocol):
    """A task that is made for a corpus before it is asked."""

    def on(self, corpus: "Corpus") -> Task:
        """The same task with this corpus."""
        ...


@runtime_checkable
class Visual(Protocol):
    """A task about pictures, asked only of models that see them (`evals.pictures`)."""

    def fits(self, module: "nn.Module") -> str:
        """"", or why this model cannot be asked."""
        ...

    def on(self, corpus: "Corpus") -> Task:
        """The same task with this corpus's pictures."""
        ...

    def seen(self, items: Sequence[Item]) -> list[bool]:
        """Whether each item's picture, to the pixel, is in the training split too."""
        ...


@runtime_checkable
class FromFile(Protocol):
    """A task whose questions stand in a file of the user's: `--tasks NAME=FILE`."""

    def reading(self, file: Path) -> Task:
        """The same task with that file's questions."""
        ...


@runtime_checkable
class Fetched(Protocol):
    """A task that has no questions without the user's own copy of its files: `--data FOLDER`."""

    url: str                            # where they are to be had; "" when it can do without


def prompt_hash(task: Task, items: Sequence[Item]) -> str:
    """Names exactly what was asked: task, version and every item's text and flags."""
    words = [f"{i.group}\0{i.begins:d}{i.ends:d}" for i in items]
    texts = [text for i in items for text in (i.prompt, i.answer, i.suffix)[: 3 if i.suffix else 2]]
    texts += [text for i in items for text in (*i.choices, *i.contexts)]
    return digest_bytes(task.name, str(task.version), *words, *texts)


def measure(metric: Metric, outcome: Outcome, groups: Sequence[str], seed: int,
            keep: np.ndarray | None = None) -> tuple[float, Interval]:
    """A metric over all items (or those of the boolean mask `keep`) with its 95 % interval."""
    counted = _counted(metric, outcome, keep)
    values, weights = _columns(metric, outcome, counted)
    names = [g for i, g in enumerate(groups) if counted[i]]
    value = float(values.sum() / weights.sum())
    if metric.kind == "share":
        right, n = int(values.sum()), len(values)
        return value, wilson(right, n, effective_items(list(values), names))
    return value, bootstrap(list(values), list(weights), names, seed)


def compare(metric: Metric, ours: Outcome, theirs: Outcome, groups: Sequence[str], seed: int) -> Difference:
    """The paired test that fits: exact McNemar for independent right-or-wrong items, else permutation by group."""
    both = _counted(metric, ours, None), _counted(metric, theirs, None)
    counted = both[0] & both[1] if (both[0] & both[1]).any() else both[0]
    a, weights = _columns(metric, ours, counted)
    b, _ = _columns(metric, theirs, counted)
    groups = [g for i, g in enumerate(groups) if counted[i]]
    if metric.kind == "share" and len(set(groups)) == len(groups):
        return mcnemar(list(a), list(b))
    return permutation(list(a), list(b), list(weights), groups, seed)


def _counted(metric: Metric, outcome: Outcome, keep: np.ndarray | None) -> np.ndarray:
    """Which items a metric is about: those of `keep` that have a weight; all of them when none has."""
    heavy = np.asarray(outcome.weights[metric.name], dtype=np.float64) > 0
    counted = heavy if keep is None else heavy & keep
    return counted if counted.any() else np.ones(len(heavy), dtype=bool) if keep is None else keep


def _columns(metric: Metric, outcome: Outcome, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (np.asarray(outcome.values[metric.name], dtype=np.float64)[keep],
            np.asarray(outcome.weights[metric.name], dtype=np.float64)[keep])
