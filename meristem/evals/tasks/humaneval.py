"""HumanEval: 164 hand-written functions to be completed from their docstrings, judged by running their tests.

Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.2. The problems are a file of the user's, plain or gzipped
lines of JSON (task_id, prompt, canonical_solution, test, entry_point), from github.com/openai/human-eval, data/:

    meristem evaluate MODEL --corpus CORPUS --tasks humaneval=HumanEval.jsonl.gz

Answers that were made elsewhere, lines of {"task_id": ..., "completion": ...}, are scored by

    humaneval.score(Path("HumanEval.jsonl.gz"), Path("samples.jsonl"))         # {"pass_at_1": Estimate(0.5, ...)}

Every program runs in `core.sandbox`, with 3 s, no network, no files and no standard input.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meristem.codecs.base import Codec
from meristem.core import sandbox
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.evals import files
from meristem.evals.base import Item
from meristem.evals.functional import Functional, answered
from meristem.evals.statistics import Estimate, bootstrap

ON_REQUEST = True
FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
WHERE = "https://github.com/openai/human-eval"


class HumanEval(Functional):
    """Items are the problems of `file`."""

    name, version, count = "humaneval", 1, 164
    url = WHERE
    length = 256

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def reading(self, file: Path) -> "HumanEval":
        """This task with the problems of a file."""
        return HumanEval(file)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """The first `limit` problems; RequestError when no file was named or it is not one of problems."""
        if self.file is None:
            raise RequestError("humaneval reads its problems from a file: --tasks humaneval=HumanEval.jsonl.gz (it is "
                               "data/HumanEval.jsonl.gz of github.com/openai/human-eval)")
        return read(self.file)[:limit]


def read(file: Path) -> list[Item]:
    """The problems of a file, tests in `suffix`."""
    file = files.find(file, "HumanEval.jsonl", folders=("humaneval", "data"), url=WHERE)
    return [Item(row["task_id"], row["prompt"], row["canonical_solution"], ends=False,
                 suffix=f"\n{row['test']}\ncheck({row['entry_point']})\n") for row in _rows(file, FIELDS)]


def score(file: Path, samples: Path, ks: tuple[int, ...] = (1, 10, 100)) -> dict[str, Estimate]:
    """The mean pass@k of a file of answers, for each k that every problem has answers enough for.

    Problems without answers are left out, as human-eval's own program does with a file of a part of them: RequestError
    instead when there are none at all, or an answer to no problem.
    """
    sandbox.require()
    pairs = [(row["task_id"], row["completion"]) for row in _rows(samples, ("task_id", "completion"))]
    asked = {group for group, _ in pairs}
    items = [item for item in read(file) if item.group in asked]
    answers = answered(items, pairs)
    task = HumanEval(file)
    task.ks = tuple(k for k in ks if k <= min(map(len, answers)))
    made = task.outcome(items, answers, joined=lambda prompt, text: f"{prompt}{text}\n")        # as they are
    groups = [item.group for item in items]
    return {name: Estimate(sum(values) / len(values), bootstrap(values, made.weights[name], groups, 0), len(items))
            for name, values in made.values.items()}


def _rows(file: Path, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The lines of a file, each with these fields as text; RequestError names the line that is not so."""
    for number, row in enumerate(files.lines(files.read(file), str(file)), start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in fields):
            raise RequestError(f"{file}, line {number}: not a line of {', '.join(fields)}")
        yield row


TASK = HumanEval()
