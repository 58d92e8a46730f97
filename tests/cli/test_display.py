"""Progress on a terminal and in a pipe: every stage, fact, warning and sample is shown, and time is told."""
import io
import sys

import pytest
from rich.console import Console

from meristem.cli import display
from meristem.cli.display import Lines, Panel, shown


class Clock:
    """A monotonic clock that the test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(display.time, "monotonic", made)
    return made


def drawn(panel: Panel) -> str:
    """The panel as text, 100 columns."""
    console = Console(file=io.StringIO(), width=100, color_system=None, legacy_windows=False)
    console.print(panel.draw())
    return console.file.getvalue()                             # type: ignore[attr-defined]


def test_the_panel_shows_a_running_stage(clock: Clock) -> None:
    panel = Panel("pretrain")
    assert "meristem pretrain  0:00" in drawn(panel)
    panel.stage("pretrain", 200)
    panel.update(10, loss=3.14159)
    clock.now = 20.0
    panel.update(60, loss=2.5, tokens_per_second=12345.6, share_of_peak=0.514, step=60, note=None)
    text = drawn(panel)
    # 50 of 200 in 20 s: 140 left take 56 s
    for fact in ("pretrain", "30%", "0:56 left", "loss 2.5", "12,346 tokens/s", "51% of peak", "step 60",
                 "meristem pretrain  0:20"):
        assert fact in text, fact
    assert "note" not in text and "3.14" not in text
    panel.update(61, seconds_left=125.0)
    assert "2:05 left" in drawn(panel) and "seconds left" not in drawn(panel)


def test_the_panel_keeps_what_is_past(clock: Clock) -> None:
    panel = Panel("quickstart")
    panel.stage("read")
    panel.update(5, megabytes=1.5)
    assert "%" not in drawn(panel)                             # no total is known
    clock.now = 75.0
    panel.stage("plan", 3)
    panel.say("a shape was chosen")
    panel.warn("the machine is busy")
    panel.sample("one\n" * 20 + "the [red]last[/red] line\n")
    text = drawn(panel)
    for line in ("read", "1:15", "megabytes 1.5", "a shape was chosen", "warning: the machine is busy",
                 "the [red]last[/red] line", "0%"):
        assert line in text, line
    assert text.count("one") == 7
    for number in range(30):
        panel.say(f"message {number}")
    panel.end()
    panel.end()
    text = drawn(panel)
    assert "message 29" in text and "message 5 " not in text and text.count("plan") == 1
    panel.update(9)                                            # nothing runs: nothing to do
    assert drawn(panel) == text


def test_a_terminal_gets_the_panel_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    with shown("curate") as progress:
        assert isinstance(progress, Lines)
        progress.stage("read", 4)
        progress.update(4, files=3)
        progress.warn("odd")
    err = capsys.readouterr().err
    assert "[read]\n" in err and "warning: odd" in err and "[read] done in 0:00  files 3" in err

    class Terminal(io.StringIO):
        """A standard error that is a terminal."""

        def isatty(self) -> bool:
            return True
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown("curate") as progress:
        assert isinstance(progress, Panel)
        progress.stage("read", 4)
        progress.update(2, files=3)
    assert "meristem curate" in terminal.getvalue() and "files 3" in terminal.getvalue()


def test_lines_say_something_every_ten_seconds_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.update(1, ignored=1)
    lines.stage("train", 100)
    for second in range(25):
        clock.now = float(second)
        lines.update(second, loss=1.0)
    lines.end()
    err = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in err] == ["[train]", "[train] 10%", "[train] 20%", "[train] done in 0:24"]
    assert "1:30 left" in err[1]
