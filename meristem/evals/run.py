"""`evaluate`: ask one model every task and write a certificate for each score.

    scores = evaluate(Subject(module, codec, model_hash, context, "fill", Path("runs/q/fill")), corpus, against=base)

Each task leaves `RUN/evals/TASK.json`: the scores, the per-item results they come from, a few questions with their
answers, and which training documents hold which items; with worked examples before the questions (`shots`) it is
TASK-N-shot.json, and the certificate holds their ids. A finished task is read back instead of asked again when model,
corpus, codec, prompts, seed and task version are the same; so is the other model's for the paired test. Baselines are
kept in the corpus folder: they belong to it.
"""
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.core import registry
from meristem.core.config import from_dict, to_dict
from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes, read_json, write_json
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.corpus.kneser_ney import KneserNey
from meristem.corpus.store import Corpus
from meristem.data import shards
from meristem.evals.base import (
    Baseline,
    Bound,
    Fetched,
    FewShot,
    FromFile,
    Guessed,
    Item,
    Metric,
    OfTraining,
    Outcome,
    Paired,
    Reference,
    Score,
    Task,
    Visual,
    compare,
    measure,
    prompt_hash,
)
from meristem.evals.contamination import Index, Overlap, evidence
from meristem.evals.evidence import Beside, asked_beside, contamination_of, phrasing_of, twin_of
from meristem.evals.subject import NGram, Subject
from meristem.plan.energy import Energy, Meter

if TYPE_CHECKING:
    from torch import nn

KIND = "evals.tasks"
FOLDER = "evals"
SHOWN = 12                              # questions kept with their answers for the reader


@dataclasses.dataclass(frozen=True)
class Asked:
    """A task's items as one evaluation asks them, and what does not depend on the model."""

    task: Task
    items: list[Item]
    groups: list[str]
    prompt_hash: str
    seed: int
    corpus_hash: str
    index: str
    overlaps: list[Overlap]
    baselines: dict[str, Baseline]
    ceiling: dict[str, Reference]
    chance: dict[str, Reference]
    shots: list[str]                    # ids of the worked examples before each question

    @property
    def file(self) -> str:
        """The name of its certificates' file: asked with other shots, a task is another question."""
        return f"{self.task.name}{f'-{len(self.shots)}-shot' if self.shots else ''}.json"


@dataclasses.dataclass(frozen=True)
class Answered:
    """A model's answers, what they cost, and what it answered beside the items (by the hash of those prompts)."""

    outcome: Outcome
    seconds: float
    energy: Energy | None
    more: dict[str, Outcome]


def evaluate(subject: Subject, corpus: Corpus, tasks: Sequence[str] = (), *, seed: int = 0, limit: int = 0,
             against: Subject | None = None, shots: int = 0, fresh: bool = False, quick: bool = False,
             data: Path | None = None, progress: Progress = SILENT) -> list[Score]:
    """Certificates of `subject` on `tasks` (`usual()` when empty), at most `limit` items each (0: the task's count).

    `against` is asked the same items for the paired tests; `shots` worked examples come before each question. `fresh`
    asks again what is already on file; `quick` leaves out the perturbed twin and the other templates. `data` is a file
    or folder with the questions of the tasks that read them. A task without items in this corpus's test split is left
    out with a warning.
    RequestError names the nearest task to an unknown one, and a task that takes no shots.
    """
    module = subject.module if isinstance(subject, Subject) else None
    found = [task_of(name, data) for name in (tasks or usual(module))]
    if shots < 0:
        raise RequestError(f"{shots} worked examples cannot be shown; give 0 or more")
    if shots:
        found = [task for task in found if tasks or isinstance(task, FewShot)]
        if refused := [task.name for task in found if not isinstance(task, FewShot)]:
            raise RequestError(f"{', '.join(refused)}: asked without worked examples only; leave out --shots")
    if refused := [f"{task.name}: {why}" for task in found if (why := _unfit(task, module))]:
        raise RequestError("; ".join(refused))
    found = [task.on(corpus) if isinstance(task, Bound) else task for task in found]
    index = Index.build(corpus, progress)

    @functools.cache
    def ngram() -> NGram:
        progress.stage("fit the 5-gram baseline")
        tokens = shards.tokenise(corpus, subject.codec, progress).split("train").tokens
        return NGram(KneserNey.fit(np.asarray(tokens), subject.codec.vocab, subject.codec.end), subject.codec)

    scores: list[Score] = []
    for task in found:
        items = task.items(corpus, subject.codec, limit or task.count, seed)
        if not items:
            progress.warn(f"{task.name}: the test split of {corpus.folder} has no items for it; not run")
            continue
        shown = functools.partial(_shown, task, corpus, shots, seed)
        bare, (items, ids) = items, shown(items)
        named = prompt_hash(task, items)
        overlaps = ([Overlap(seen, 0, 0) for seen in task.seen(items)] if isinstance(task, Visual)
                    else index.check([item.evidence or item.prompt + item.answer for item in bare]))
        asked = Asked(task, items, [i.group for i in items], named, seed, corpus.hash, index.hash, overlaps,
                      _baselines(task, corpus, items, named, ngram, seed, subject.codec.hash, fresh),
                      task.ceiling(items, subject.codec), task.chance(items) if isinstance(task, Guessed) else {}, ids)
        other = None if against is None else _answers(against, asked, fresh=False, progress=progress).outcome
        answered = _answers(subject, asked, fresh, progress)
        more = functools.partial(_more, subject, task, answered.more, seed, progress)
        beside = Beside() if quick else asked_beside(task, bare, shown, more, seed)
        certificates = [_certificate(subject, asked, m, answered, beside, against, other) for m in task.metrics
                        if m.name in answered.outcome.values]  # a source or bucket that these items do not reach
        if subject.folder is not None:
            _write(subject.folder, subject, asked, answered, certificates)
        scores += certificates
    return scores


def usual(module: "nn.Module | None" = None) -> list[str]:
    """The tasks that are asked when none is named: those that need nothing but the corpus.

    A model that sees pictures is asked about these, any other (None too) about text.
    """
    names = [name for name in registry.names(KIND) if not vars(registry.load(KIND, name)).get("ON_REQUEST")]
    if module is None or "image" not in vars(module.config):
        return [name for name in names if not isinstance(task_of(name), Visual)]
    return [name for name in names if isinstance(task := task_of(name), Visual) and not task.fits(module)]


def _unfit(task: Task, module: "nn.Module | None") -> str:
    """Why a model cannot be asked a task about pictures, or ""."""
    if not isinstance(task, Visual):
        return ""
    sees = module is not None and "image" in vars(module.config)
    return task.fits(module) if module is not None and sees else "this model sees no pictures"


def task_of(word: str, data: Path | None = None) -> Task:
    """A task by its name, or `name=FILE` for one that reads a file (else `data`); RequestError names the nearest."""
    name, equals, file = word.partition("=")
    task = registry.load(KIND, name).TASK
    if not equals:
        wants = data is not None and isinstance(task, Fetched) and task.url != ""
        return task.reading(Path(data or "").expanduser()) if wants and isinstance(task, FromFile) else task
    if not isinstance(task, FromFile):
        raise RequestError(f"{name} reads no file: leave out ={file}")
    return task.reading(Path(file).expanduser())


def read(folder: Path) -> list[Score]:
    """Every certificate in a run folder's `evals/`, in order of task and metric; RequestError on a malformed one."""
    return [from_dict(Score, tree) for path in sorted((folder / FOLDER).glob("*.json"))
            for tree in read_json(path)["scores"]]


def render(scores: Sequence[Score]) -> str:
    """A plain table of certificates: name, value, interval, n, baseline, clean items, and the paired difference."""
    rows = [("score", "value", "95 % interval", "n", "baseline", "clean", "against")]
    for s in scores:
        base, dirt, pair = s.baseline, s.contamination, s.paired
        rows.append((s.name, f"{s.value:.4g} {s.unit}", f"{s.interval.low:.4g} to {s.interval.high:.4g}", str(s.n),
                     "; ".join(f"{b.value:.4g} ({b.what})" for b in (base, *s.beside) if b) or "-",
                     f"{dirt.clean_n} of {s.n}" if dirt else "-",
                     f"{pair.against}: {pair.difference:+.4g}, p {pair.p:.2g}" if pair else "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _shown(task: Task, corpus: Corpus, shots: int, seed: int, items: list[Item]) -> tuple[list[Item], list[str]]:
    """The items after `shots` worked examples, and the examples' ids."""
    if not shots:
        return items, []
    assert isinstance(task, FewShot)                           # the others were refused before
    return task.with_shots(corpus, items, shots, seed)


def _certificate(subject: Subject, asked: Asked, metric: Metric, answered: Answered, beside: Beside,
                 against: Subject | None, other: Outcome | None) -> Score:
    seed, outcome = seed_of(asked.seed, asked.task.name, metric.name, "intervals"), answered.outcome
    value, interval = measure(metric, outcome, asked.groups, seed)
    references = [Reference(measure(metric, entry.outcome, asked.groups, seed)[0], entry.what)
                  for name, entry in asked.baselines.items() if name.partition("/")[0] == metric.name]
    paired = None
    if against is not None and other is not None:
        gap = compare(metric, outcome, other, asked.groups, seed)
        paired = Paired(against.name, gap.value, gap.interval, gap.p, gap.test)
    count = len(asked.shots)
    name, what = (f"{metric.name}_{count}_shot", f"{metric.what}, after {count} worked examples") if count else (
        metric.name, metric.what)
    return Score(name=name, what=what, task=asked.task.name, version=asked.task.version, value=value,
                 unit=metric.unit, higher_is_better=metric.higher_is_better, n=len(asked.items), interval=interval,
                 baseline=references[0] if references else None, ceiling=asked.ceiling.get(metric.name),
                 prompt_hash=asked.prompt_hash,
                 seed=asked.seed, model_hash=subject.model_hash, corpus_hash=asked.corpus_hash,
                 contamination=None if isinstance(asked.task, OfTraining) else contamination_of(
                     metric, outcome, asked.overlaps, asked.index, asked.groups, seed),
                 paired=paired, seconds=answered.seconds,
                 cut=outcome.cut if metric.kind == "share" else 0,      # sums over a text are read in windows
                 beside=tuple(references[1:]), shots=asked.shots, chance=asked.chance.get(metric.name),
                 twin=twin_of(metric, outcome, beside, asked.groups, seed),
                 phrasing=phrasing_of(metric, beside, seed), energy=answered.energy)


def _answers(subject: Subject, asked: Asked, fresh: bool, progress: Progress) -> Answered:
    """The subject's outcome: from its run folder when it has been asked exactly this before, else by asking."""
    path = None if subject.folder is None else subject.folder / FOLDER / asked.file
    if path is not None and path.is_file() and not fresh:
        saved = read_json(path)
        if saved.get("key") == _key(subject, asked):
            energy = saved.get("energy")
            return Answered(from_dict(Outcome, saved["outcome"]), float(saved["seconds"]),
                            from_dict(Energy, energy) if energy else None,
                            {key: from_dict(Outcome, tree) for key, tree in saved.get("more", {}).items()})
    progress.stage(f"evaluate {subject.name}: {asked.task.name}", total=len(asked.items))
    start, meter = time.perf_counter(), Meter()
    outcome = asked.task.run(subject, asked.items, asked.seed, progress)
    return Answered(outcome, round(time.perf_counter() - start, 2), meter.stop(), {})


def _more(subject: Subject, task: Task, known: dict[str, Outcome], seed: int, progress: Progress,
          items: list[Item]) -> Outcome:
    """The answers to other items of the task, from `known` or by asking."""
    key = prompt_hash(task, items)
    if key not in known:
        known[key] = dataclasses.replace(task.run(subject, items, seed, progress), outputs=[])
    return known[key]


def _baselines(task: Task, corpus: Corpus, items: list[Item], named: str, ngram: Any, seed: int, codec_hash: str,
               fresh: bool) -> dict[str, Baseline]:
    path = corpus.folder / "baselines" / f"{task.name}-{digest_bytes(corpus.hash, codec_hash, named, str(seed))}.json"
    if path.is_file() and not fresh:
        return {name: from_dict(Baseline, tree) for name, tree in read_json(path).items()}
    made = task.baselines(corpus, items, ngram, seed)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {name: to_dict(entry) for name, entry in made.items()})
    return made


def _key(subject: Subject, asked: Asked) -> str:
    return digest_bytes(subject.model_hash, subject.codec.hash, asked.corpus_hash, asked.prompt_hash, str(asked.seed))


def _write(folder: Path, subject: Subject, asked: Asked, answered: Answered, scores: list[Score]) -> None:
    outcome = answered.outcome
    texts = outcome.outputs or [""] * len(asked.items)
    shown = [{"prompt": i.prompt, "answer": i.answer, "output": text,
              "values": {name: values[n] for name, values in outcome.values.items()}}
             for n, (i, text) in enumerate(zip(asked.items, texts, strict=True))][:SHOWN]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(folder / FOLDER / asked.file,
               {"task": asked.task.name, "version": asked.task.version, "key": _key(subject, asked),
                "seconds": answered.seconds, "energy": to_dict(answered.energy) if answered.energy else None,
                "scores": [s.to_dict() for s in scores], "groups": asked.groups, "outcome": to_dict(outcome),
                "overlaps": evidence(asked.overlaps), "examples": shown,
                "more": {key: to_dict(some) for key, some in answered.more.items()}})
