"""Functional correctness: the estimator's published values, what passes, and that no sandbox means no sampling."""
import gzip
import itertools
import json
import shutil
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs import char
from meristem.codecs.base import Codec
from meristem.core import sandbox
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import SILENT
from meristem.evals import functional
from meristem.evals.base import Item, measure
from meristem.evals.functional import pass_at
from meristem.evals.run import task_of, usual
from meristem.evals.tasks import humaneval, procedural_functions

boxed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here: apt-get install bubblewrap")
CODEC = char.fit(["".join(map(chr, range(32, 127))) + "\n"])


@pytest.mark.parametrize(("n", "correct", "k", "wanted"), [
    (200, 10, 1, 0.05), (200, 10, 10, 0.4085478661), (200, 10, 100, 0.9992289739), (5, 2, 3, 0.9),
    (10, 0, 5, 0.0), (10, 10, 1, 1.0), (10, 8, 3, 1.0)])
def test_the_estimator_has_the_published_values(n: int, correct: int, k: int, wanted: float) -> None:
    """PUBLISHED.md row 51, from evaluation.py of openai/human-eval."""
    assert pass_at(n, correct, k) == pytest.approx(wanted, abs=5e-11)


def test_the_estimator_is_the_share_of_all_draws() -> None:
    for n, k in ((5, 2), (6, 3), (7, 1)):
        for correct in range(n + 1):
            draws = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
            assert pass_at(n, correct, k) == pytest.approx(sum(map(any, draws)) / comb(n, k))
    for bad in ((5, 6, 1), (5, 1, 6), (5, 1, 0), (5, -1, 1)):
        with pytest.raises(RequestError, match="k must be 1 to n"):
            pass_at(*bad)


@dataclass
class Parrot:
    """A subject that gives these answers in turn."""

    codec: Codec
    texts: list[str]
    asked: int = 0

    def complete(self, prompts: list[np.ndarray], length: int, temperature: float, seed: int) -> list[np.ndarray]:
        self.asked += len(prompts)
        return [np.append(self.codec.encode(self.texts[i % len(self.texts)]), self.codec.end)
                for i in range(len(prompts))]

    def room(self, length: int) -> float:
        return 1e9


RIGHT = Item("a", 'def one(x):\n    """One more."""', "\n    return x + 1", suffix="\nassert one(1) + one(5) == 8")


@boxed
def test_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "LIMITS", sandbox.Limits(seconds=0.7))
    passing = ["\n    return x + 1", "\n    return (x  + 1) # ok\n\nand so on (",
               "\n    y = x\n    return y + 1\nprint(1"]
    failing = ["\n    return x", "\n    raise SystemExit(0)", "\n    import os\n    os._exit(0)", "\n    return (",
               "", "  ", "\n    while True: pass\n", "\n    print('x' * 99999)\n    return x + 1",
               "\n    return x + 1\0"]
    made = [functional.program(RIGHT.prompt, text) for text in passing + failing]
    assert functional.judge([RIGHT], [made]) == [[True] * len(passing) + [False] * len(failing)]
    assert functional.program("def f():\n    ", "return 1\nx") == "def f():\n    return 1\n"


@boxed
def test_an_outcome_is_the_mean_over_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Item("b", "def two():", "\n    return 2", suffix="\nassert two() == 2")
    task = procedural_functions.ProceduralFunctions()
    task.samples, task.ks = 10, (1, 5)
    parrot = Parrot(CODEC, ["\n    return x + 1", "\n    return 2", "\n    return 3", "\n    return 2", "\n    return"])
    made = task.run(parrot, [RIGHT, other], 0, SILENT)
    assert parrot.asked == 20 and made.outputs == ["\n    return x + 1", "\n    return 2"]
    assert made.values["pass_at_1"] == pytest.approx([0.2, 0.4])
    assert made.values["pass_at_5"] == pytest.approx([pass_at(10, 2, 5), pass_at(10, 4, 5)])
    value, interval = measure(task.metrics[1], made, ["a", "b"], 0)
    assert value == pytest.approx(sum(made.values["pass_at_5"]) / 2) and interval.low <= value <= interval.high


def test_without_a_sandbox_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_check", lambda: ("", "bwrap is not installed: apt-get install bubblewrap"))
    parrot = Parrot(CODEC, ["\n    return x + 1"])
    for act in (lambda: procedural_functions.TASK.run(parrot, [RIGHT], 0, SILENT),
                lambda: humaneval.score(Path("none"), Path("none"))):
        with pytest.raises(MachineError, match="apt-get install bubblewrap"):
            act()
    assert parrot.asked == 0


@boxed
def test_procedural_problems_are_asked_with_their_tests() -> None:
    task = procedural_functions.ProceduralFunctions()
    task.samples, task.ks = 1, (1,)
    items = task.items(None, CODEC, task.count, 0)
    assert len(items) == 120 == len({i.prompt for i in items})
    assert items[:5] == task.items(None, CODEC, 5, 0) != task.items(None, CODEC, 5, 1)
    few = items[:3]
    assert task.outcome(few, [[item.answer] for item in few]).values["pass_at_1"] == [1.0] * 3
    assert task.outcome(few, [["\n    return None"]] * 3).values["pass_at_1"] == [0.0] * 3
    lazy = task.baselines(None, few, lambda: pytest.fail("not needed"), 0)["pass_at_1"]
    assert "first argument" in lazy.what and lazy.outcome.values["pass_at_1"] == [0.0] * 3


# One problem and six answers in the manner of human-eval's own example: three are right, so pass@1 is 0.5, which its
# product gives as 0.4999999999999999 (PUBLISHED.md row 52).
PROBLEM = {"task_id": "test/0", "prompt": "def seven():\n", "canonical_solution": "    return 7",
           "test": "def check(candidate):\n    assert candidate() == 7\n", "entry_point": "seven"}
ANSWERS = ["    import subprocess\n    return subprocess.check_output(['rm', '-rf', '/tmp/x'])",
           "    import time\n    time.sleep(99)\n    return 7", "    return input('a number: ')", "    return 7",
           "  return 7", "\treturn 7"]


def lines(path: Path, rows: list) -> Path:
    """Lines of JSON, gzipped where the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@boxed
def test_a_sample_of_known_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "LIMITS", sandbox.Limits(seconds=0.7))
    file = lines(tmp_path / "problems.jsonl.gz", [PROBLEM, {**PROBLEM, "task_id": "test/1"}])
    samples = lines(tmp_path / "samples.jsonl", [{"task_id": "test/0", "completion": text} for text in ANSWERS])
    [one] = humaneval.score(file, samples).values()
    assert one.value == 0.4999999999999999 and one.n == 1 and one.interval.low <= one.value <= one.interval.high
    assert humaneval.score(file, samples, ks=(1, 4, 10))["pass_at_4"].value == 1.0


def test_a_file_of_problems(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl.gz", [PROBLEM])
    item, = humaneval.TASK.reading(file).items(None, CODEC, 10, 0)
    assert (item.group, item.prompt, item.answer) == ("test/0", "def seven():\n", "    return 7")
    assert item.suffix.endswith("== 7\n\ncheck(seven)\n")
    with pytest.raises(RequestError, match="--tasks humaneval=HumanEval.jsonl.gz"):
        humaneval.TASK.items(None, CODEC, 10, 0)


@pytest.mark.parametrize(("raw", "message"), [
    (b"", "no answer|cannot be read"), (b"not gzip", "cannot be read"),
    (gzip.compress(b"{", mtime=0)[:-9], "cannot be read"),
    (gzip.compress(b"{}\n", mtime=0), "line 1: not a line of task_id"),
    (gzip.compress(b"\n{\n", mtime=0), "line 2: "),
    (gzip.compress(b"[1]", mtime=0), "line 1: not a line"), (gzip.compress(b"\xff", mtime=0), "cannot be read")])
def test_a_bad_file_is_one_line(raw: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl.gz"
    file.write_bytes(raw)
    if raw:
        with pytest.raises(RequestError, match=message):
            humaneval.read(file)
    with pytest.raises(RequestError, match="cannot be read"):
        humaneval.read(tmp_path / "absent.jsonl")


@boxed
def test_answers_must_belong_to_problems(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'x', which is not one of the 1 problems"):
        functional.answered([RIGHT], [("x", "")])
    with pytest.raises(RequestError, match="no answer to 'a'"):
        functional.answered([RIGHT], [])
    file = lines(tmp_path / "p.jsonl", [PROBLEM])
    with pytest.raises(RequestError, match="no answer|not one of"):
        humaneval.score(file, lines(tmp_path / "s.jsonl", [{"task_id": "other", "completion": ""}]))


def test_such_tasks_are_asked_by_name_and_with_their_file(tmp_path: Path) -> None:
    assert not {"humaneval", "procedural_functions"} & set(usual()) and "bits_per_byte" in usual()
    assert task_of("humaneval=a=b.gz").file == Path("a=b.gz") and task_of("humaneval").file is None
    with pytest.raises(RequestError, match="bits_per_byte reads no file"):
        task_of("bits_per_byte=x")
    with pytest.raises(RequestError, match="did you mean humaneval"):
        task_of("humanevil=x")
