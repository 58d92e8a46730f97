"""The command itself: help is instant and complete, --json is everywhere, wrong words get the nearest right one."""
import json
import os
import resource
import subprocess
import sys

import pytest

from meristem.cli.common import clock
from meristem.cli.main import VERBS
from meristem.core.errors import RequestError
from meristem.plan.budget import duration

HELP_ALL = """
import contextlib, io, json, sys
from meristem.cli.main import VERBS, main
texts = {}
for words in [[], *([v] for v in VERBS)]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*words, "--help"]) == 0
    texts["".join(words)] = out.getvalue()
heavy = sorted({"torch", "numpy", "tokenizers", "yaml", "jinja2"} & set(sys.modules))
print(json.dumps({"texts": texts, "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", HELP_ALL], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_imports_nothing_heavy(helps: dict[str, list[str]]) -> None:
    assert helps["heavy"] == []


def test_help_is_worth_reading(helps: dict[str, dict[str, str]]) -> None:
    for verb in VERBS:
        text = " ".join(helps["texts"][verb].split())
        for part in (f"meristem {verb}", "Example: ", "Exit status: 0 ok", "--json"):
            assert part in text, f"meristem {verb} --help lacks {part!r}"
    assert all(verb in helps["texts"][""] for verb in VERBS)
    assert "meristem[trace]" in helps["texts"]["trace"]              # square brackets are not taken for a style


def test_help_is_fast() -> None:
    def cost() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    before = cost()
    for _ in range(3):
        subprocess.run([sys.executable, "-m", "meristem", "--help"], stdout=subprocess.DEVNULL, check=True)
    assert (cost() - before) / 3 < 0.6, "processor seconds; 0.2 on a quiet machine, importing torch alone takes 1"


def test_no_words_show_the_help(run) -> None:
    assert "quickstart" in run().out


@pytest.mark.parametrize(("words", "hint"), [
    (["pretain"], "did you mean pretrain"),
    (["xyzzy"], "known: adapt, card, chat"),
    (["pretrain", "--fro", "x"], "--from"),
    (["curate"], "INPUT"),
    (["evaluate", "x", "--corpus", "y", "--limit", "many"], "see: meristem evaluate --help"),
    (["list", "recipies"], "did you mean recipes"),
])
def test_wrong_words_get_the_right_ones(run, words: list[str], hint: str) -> None:
    result = run(*words)
    assert result.status == 2 and hint in result.complaint


@pytest.mark.parametrize(("verb", "words"), [("list", []), ("list", ["recipes"]), ("show", ["llama"]), ("doctor", [])])
def test_json_is_the_last_line(run, verb: str, words: list[str]) -> None:
    result = run(verb, *words, "--json")
    assert result.status == 0 and isinstance(result.json, dict) and len(result.out.splitlines()) == 1


def test_a_closed_pipe_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "meristem", "list"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("300", 300), ("1.5h", 5400),
                                             ("2 min", 120)])
def test_durations(text: str, value: float) -> None:
    assert duration(text) == value


@pytest.mark.parametrize("text", ["", "five", "5x", "-3s", "1h 5", "s", "5m5", "1e3"])
def test_no_durations(text: str) -> None:
    with pytest.raises(RequestError, match="is not a duration"):
        duration(text)


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 75, 3700)] == ["0:00", "1:00", "1:15", "1:01:40"]
