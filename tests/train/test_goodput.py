"""Goodput: useful time over wall time, and every lost second under its cause, over kills and restarts."""
import json
import os
from types import SimpleNamespace

import pytest

from meristem.train.goodput import Goodput, Report, shares


def line(step: int, seconds: float, skipped: str = "") -> dict:
    return {"step": step, "step_seconds": seconds, "skipped": skipped}


class Clock:
    """A wall clock that goes on by hand."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def steps(folder, clock, goodput, first: int, count: int, seconds: float = 1.0, saving: float = 0.0) -> None:
    """Some steps of a launch, each logged, the account told; `saving` seconds pass after each."""
    aside = {"saving": 0.0, "watching": 0.0}
    goodput.ticks = clock                                      # written at every step here
    for step in range(first, first + count):
        clock.now += seconds + saving
        aside["saving"] += saving
        with open(folder / "log.jsonl", "a") as f:
            f.write(json.dumps(line(step, seconds)) + "\n")
        os.utime(folder / "log.jsonl", (clock.now, clock.now))
        goodput(SimpleNamespace(aside=aside), {})


def cut(folder, step: int) -> None:
    """What the log does on resume."""
    lines = (folder / "log.jsonl").read_text().splitlines()[:step]
    (folder / "log.jsonl").write_text("".join(one + "\n" for one in lines))


def test_steps_of_a_log_by_what_they_were_good_for():
    rows = [line(1, 5.0), line(2, 1.5), *[line(i, 1.0) for i in range(3, 9)], line(9, 1.0, "its loss"), line(10, 7.0)]
    useful, lost = shares(rows, [0])
    assert lost == {"compile": 4.5, "skipped": 1.0, "stalled": 6.0} and useful == 9.0
    assert shares(rows, [0, 9])[1]["compile"] == 10.5, "the first steps of a later launch compile too"
    assert shares([], []) == (0.0, {"skipped": 0}) and shares([line(1, 2.0, "nan")], [0]) == (0.0, {"skipped": 2.0})


def test_a_kill_and_a_pause_are_accounted_to_the_second(tmp_path, clock):
    first = Goodput(tmp_path, clock)
    clock.now += 3.0                                           # builds the model
    first.back(0)
    steps(tmp_path, clock, first, 1, 10, saving=0.5)
    clock.now += 20.0                                          # killed; the machine comes back
    second = Goodput(tmp_path, clock)
    clock.now += 2.0
    second.back(7)                                             # the newest checkpoint
    cut(tmp_path, 7)
    steps(tmp_path, clock, second, 8, 13)
    report = second.report()
    assert report.launches == 2 and report.wall == pytest.approx(3 + 15 + 22 + 13) and report.useful == 20.0
    lost = {cause: seconds for cause, seconds in report.lost.items() if seconds}
    assert lost == pytest.approx({"setup": 3.0, "restart": 22.0, "repeated": 3.0, "saving": 5.0})
    assert report.share == pytest.approx(20 / 53)
    assert report.line() == ("goodput 37.7%: 20.0 of 53.0 s since the first launch; lost: restart 22.0 s, saving 5.0 "
                             "s, setup 3.0 s, repeated 3.0 s (2 launches)")


def test_a_rewind_is_named_and_other_is_what_nothing_explains(tmp_path, clock):
    goodput = Goodput(tmp_path, clock)
    goodput.back(0)
    steps(tmp_path, clock, goodput, 1, 6)
    goodput.back(4, "rewound")
    cut(tmp_path, 4)
    clock.now += 1.0
    assert goodput.report().lost == pytest.approx({"rewound": 2.0, "other": 1.0}) and goodput.report().launches == 1


@pytest.mark.parametrize("raw", ["", "[1]", '{"began": 3}', "{", "\x00"])
def test_an_account_that_cannot_be_read_begins_anew(tmp_path, clock, raw):
    (tmp_path / "goodput.json").write_text(raw)
    goodput = Goodput(tmp_path, clock)
    goodput.back(0)
    assert goodput.report() == Report(0.0, 0.0, 1, {"other": 0.0}) and goodput.report().share == 0.0


def test_a_clock_that_was_set_back_gives_no_negative_times(tmp_path, clock):
    Goodput(tmp_path, clock).back(0)
    clock.now -= 5000.0
    again = Goodput(tmp_path, clock)
    again.back(0)
    assert again.report().wall == 0.0 and all(seconds >= 0 for seconds in again.report().lost.values())
