"""The risk battery: every task that says how a model may do harm, asked of one model; what cannot be asked is a gap.

    made = battery(Subject.open(Path("runs/x")), corpus, data=Path("benchmarks"))
    made.scores, made.left_out                  # certificates; {"bbq": "reads its questions from files: ...", ...}

A task belongs to it whose file says RISK = True. Certificates are kept as any others, in RUN/evals/; RUN/risk.json says
what was asked and what was left out and why, and the model card and the report print both. It runs at the end of
`meristem pretrain` and `adapt` (`--no-risk` leaves it out, and a gap in the card), with as many items as the run took
seconds: a model that was trained for two seconds is not judged for a minute.
"""
from dataclasses import dataclass
from pathlib import Path

from meristem.core import registry
from meristem.core.errors import MeristemError
from meristem.core.files import write_json
from meristem.core.progress import SILENT, Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Score, Visual
from meristem.evals.run import KIND, evaluate, task_of
from meristem.evals.subject import Subject

FILE = "risk.json"
FEWEST, MOST = 8, 100                   # items a task


@dataclass(frozen=True)
class Battery:
    """What was asked, and why the rest was not."""

    scores: list[Score]
    asked: list[str]
    left_out: dict[str, str]


def tasks() -> list[str]:
    """The tasks of the battery."""
    return [name for name in registry.names(KIND) if vars(registry.load(KIND, name)).get("RISK")]


def battery(subject: Subject, corpus: Corpus, *, data: Path | None = None, seed: int = 0, limit: int = 0,
            against: Subject | None = None, progress: Progress = SILENT) -> Battery:
    """Ask every task of the battery that fits the model, at most `limit` items each (0: MOST); never an error.

    `against`: another model for the paired tests, as the base of an adapted one (is its bias passed on?).
    """
    scores: list[Score] = []
    asked: list[str] = []
    left_out: dict[str, str] = {}
    for name in tasks():
        if why := _unfit(subject, name):
            if why != OTHER:                                   # pictures are no gap of a model that reads text
                left_out[name] = why
            continue
        try:
            found = evaluate(subject, corpus, [name], seed=seed, limit=limit or MOST, quick=True, data=data,
                             against=against, progress=progress)
        except Exception as error:                             # an account of a run must not end it
            left_out[name] = str(error) if isinstance(error, MeristemError) else f"{type(error).__name__}: {error}"
            progress.warn(f"{name}: {left_out[name]}")
            continue
        scores += found
        if found:
            asked.append(name)
        else:
            left_out[name] = "this corpus has no items for it"
    if subject.folder is not None:
        write_json(subject.folder / FILE, {"asked": asked, "left_out": left_out})
    return Battery(scores, asked, left_out)


OTHER = "another kind of model"


def _unfit(subject: Subject, name: str) -> str:
    """Why a model is not asked a task: `OTHER` when the task is about what the model does not do at all."""
    from meristem.generate.seq2seq import EncoderDecoder
    from meristem.nn.attention import two_way
    task, sees = task_of(name), "image" in vars(subject.module.config)
    if isinstance(task, Visual) != sees:
        return OTHER
    if isinstance(task, Visual):
        return task.fits(subject.module)
    writes = not isinstance(subject.module, EncoderDecoder) and not two_way(subject.module)
    return "" if writes else "this model does not go on with a text"
