"""Berkeley Function-Calling Leaderboard: which functions a request calls, with which arguments, or none.

Patil et al., https://gorilla.cs.berkeley.edu/leaderboard.html. Files: BFCL_v4_{simple_python,multiple,parallel,
irrelevance}.json and possible_answer/ of the same names. The model is shown the functions as JSON and writes Python
calls, `f(a=1)`, one a line, or "none". Calls are compared as syntax trees: names equal, every argument one of the
accepted values, those that may be left out marked by "". Baseline: always "none".

    meristem evaluate RUN --tasks bfcl --data FOLDER
"""
import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from meristem.corpus.store import Corpus
from meristem.evals import files
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.benchmark import Written
from meristem.evals.perturb import typos
from meristem.evals.tasks.parses_as_python import parse

ON_REQUEST = True
PARTS = ("simple_python", "multiple", "parallel", "irrelevance")
Call = tuple[str, dict[str, Any]]


class FunctionCalls(Written):
    """Items are requests with their functions; `suffix` is a JSON text of the accepted calls, [] for none."""

    name = "bfcl"
    length, stops = 96, ("\n\n",)
    url = "https://github.com/ShishirPatil/gorilla"
    folders = ("bfcl", "berkeley-function-call-leaderboard/bfcl_eval/data")
    templates = ("Functions:\n{}\nCalls:\n", "{}\nCalls:\n", "You may call these.\n{}\nPython:\n", "Tools: {}\nUse:\n",
                 "API:\n{}\nCode:\n", "{}\nAnswer with calls only:\n", "Available functions:\n{}\n>>> ", "{}\n")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Right calls where there are any, none where there should be none."""
        return (Metric("bfcl_calls", "bfcl: requests answered with exactly the accepted calls", "share", "ratio", True),
                Metric("bfcl_none", "bfcl: requests that no function fits answered without a call", "share", "ratio",
                       True))

    def read(self) -> list[Item]:
        """All four parts."""
        out = []
        for part in PARTS:
            name = f"BFCL_v4_{part}.json"
            wanted: dict[str, Any] = {}
            if part != "irrelevance":
                where = files.find(self._from(), f"possible_answer/{name}", folders=self.folders, url=self.url)
                wanted = {row["id"]: row["ground_truth"] for row in files.lines(files.read(where), str(where))}
            for row in self.rows(name, fields=("id", "question", "function")):
                request = row["question"][0][-1]["content"]
                stem = "\n".join(json.dumps(f) for f in row["function"]) + f"\nRequest: {request}"
                accepted = wanted.get(row["id"], [])
                out.append(Item(row["id"], self.templates[0].replace("{}", stem), written_out(accepted), stem=stem,
                                suffix=json.dumps(accepted), evidence=request))
        return out

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Letters of the request alone: functions keep their names."""
        out = []
        for item in items:
            functions, _, request = item.stem.rpartition("\nRequest: ")
            stem = f"{functions}\nRequest: {typos(request, seed)}"
            out.append(replace(item, prompt=item.prompt.replace(item.stem, stem), stem=stem))
        return out

    def grade(self, item: Item, text: str) -> list[float]:
        """1 where the calls are accepted; both columns, `outcome` weighs them."""
        return [float(accepts(json.loads(item.suffix), calls(text)))] * 2

    def outcome(self, items: Sequence[Item], outputs: list[str]) -> Outcome:
        """Each metric over its own kind of request."""
        made = super().outcome(items, outputs)
        some = [float(item.suffix != "[]") for item in items]
        weights = {"bfcl_calls": some, "bfcl_none": [1 - x for x in some]}
        return Outcome({k: [x * w for x, w in zip(v, weights[k], strict=True)] for k, v in made.values.items()},
                       weights, outputs)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Never a call."""
        made = self.outcome(items, ["none"] * len(items))
        return {name: Baseline("never a call", made) for name in made.values}


def calls(text: str) -> list[Call] | None:
    """The calls of some lines of Python; [] for "none" or no call, None for what cannot be read as calls."""
    tree = parse(text.strip().strip("[]"))
    if tree is None:
        return None if "(" in text else []
    out: list[Call] = []
    for node in tree.body:
        each = node.value.elts if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple) else [
            node.value if isinstance(node, ast.Expr) else None]
        for call in each:
            if not isinstance(call, ast.Call):
                continue
            try:
                out.append((ast.unparse(call.func), {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
            if call.args:
                return None                                    # an argument without its name says too little
    return out


def accepts(accepted: list[dict[str, dict[str, list[Any]]]], found: list[Call] | None) -> bool:
    """Whether calls are the accepted ones, in any order."""
    if found is None or len(found) != len(accepted):
        return False
    left = list(found)
    for wanted in accepted:
        [(name, values)] = wanted.items()
        match = next((call for call in left if call[0] == name and _fits(values, call[1])), None)
        if match is None:
            return False
        left.remove(match)
    return True


def written_out(accepted: list[dict[str, dict[str, list[Any]]]]) -> str:
    """The first accepted form as Python."""
    lines = [f"{name}({', '.join(f'{k}={v[0]!r}' for k, v in values.items() if v and v[0] != '')})"
             for one in accepted for name, values in one.items()]
    return "\n".join(lines) or "none"


def _fits(values: dict[str, list[Any]], given: dict[str, Any]) -> bool:
    if any(name not in values for name in given):
        return False
    return all(any(_same(given[name], one) for one in some) if name in given else "" in some
               for name, some in values.items())


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, str) and isinstance(theirs, str):
        return ours.casefold().split() == theirs.casefold().split()
    if isinstance(theirs, dict) and isinstance(ours, dict):    # values of an inner mapping are lists of accepted ones
        return set(ours) <= set(theirs) and all(any(_same(ours[k], v) for v in theirs[k]) if k in ours
                                                else "" in theirs[k] for k in theirs)
    if isinstance(theirs, list) and isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool(ours == theirs) and isinstance(ours, bool) == isinstance(theirs, bool)


TASK = FunctionCalls()
