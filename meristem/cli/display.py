"""Progress drawn on standard error: a live panel on a terminal, a few plain lines elsewhere.

The panel shows the stage, a bar, loss, tokens a second, the share of the machine's measured peak, the time left and
the latest sample. Standard output stays free for answers.
"""
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meristem.cli.common import clock
from meristem.core.progress import Fact, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY = 10.0                                                   # seconds between plain lines: a log, not a flood


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A `Progress` that draws itself while the block runs: `with shown("pretrain") as progress: ...`."""
    if other := int(os.environ.get("RANK", "0")):              # torchrun: the first process shows the run
        yield Other(other)
        return
    if not sys.stderr.isatty():
        lines = Lines()
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.live import Live
    panel = Panel(title)
    with Live(get_renderable=panel.draw, console=Console(stderr=True), refresh_per_second=4, transient=False):
        yield panel
        panel.end()


class Other(Progress):
    """Any process of a run but the first: its warnings alone."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def warn(self, text: str) -> None:
        _line(f"warning: rank {self.rank}: {text}")


class _Stage:
    """How far the current stage is, and how long it will still take."""

    def __init__(self, name: str, total: float | None):
        self.name, self.total, self.done, self.facts = name, total, 0.0, {}  # type: str, float | None, float, dict[str, Fact]
        self.began = time.monotonic()
        self.first: tuple[float, float] | None = None          # at the first update: compilation is not pace

    def update(self, done: float, facts: dict[str, Fact]) -> None:
        self.done = done
        self.facts |= facts
        self.first = self.first or (time.monotonic(), done)

    def left(self) -> float | None:
        """Seconds to go: as the work itself says, else at the pace since the first update."""
        if isinstance(told := self.facts.get("seconds_left"), float | int):
            return float(told)
        if not self.total or self.first is None or self.done <= self.first[1]:
            return None
        pace = (time.monotonic() - self.first[0]) / (self.done - self.first[1])
        return pace * (self.total - self.done)

    def words(self) -> list[str]:
        """The facts as people read them."""
        out = []
        for key, value in self.facts.items():
            if value is None or key == "seconds_left":
                continue
            if key == "share_of_peak" and isinstance(value, float):
                out.append(f"{value:.0%} of peak")
            elif key == "tokens_per_second" and isinstance(value, float | int):
                out.append(f"{value:,.0f} tokens/s")
            else:
                shown = {int: f"{value:,}", float: f"{value:.4g}"} if isinstance(value, int | float) else {}
                out.append(f"{key.replace('_', ' ')} {shown.get(type(value), value)}")
        return out


class Lines(Progress):
    """Plain lines for logs and pipes: one when a stage begins, one every ten seconds, one when it ends."""

    def __init__(self) -> None:
        self.now: _Stage | None = None
        self.last = 0.0

    def stage(self, name: str, total: float | None = None) -> None:
        self.end()
        self.now, self.last = _Stage(name, total), time.monotonic()
        _line(f"[{name}]")

    def update(self, done: float, **facts: Fact) -> None:
        if self.now is None:
            return
        self.now.update(done, facts)
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            share = [f"{done / self.now.total:.0%}"] if self.now.total else []
            left = [f"{clock(seconds)} left"] if (seconds := self.now.left()) else []
            _line(f"[{self.now.name}] " + "  ".join(share + self.now.words() + left))

    def say(self, text: str) -> None:
        _line(text)

    def sample(self, text: str) -> None:
        _line("  | " + "\n  | ".join(text.rstrip().splitlines()[-6:]))

    def warn(self, text: str) -> None:
        _line(f"warning: {text}")

    def end(self) -> None:
        """Close the current stage with its facts and its time."""
        if self.now is not None:
            facts = ["", *self.now.words()]
            _line(f"[{self.now.name}] done in {clock(time.monotonic() - self.now.began)}" + "  ".join(facts))
            self.now = None


class Panel(Progress):
    """The live panel of a terminal."""

    def __init__(self, title: str) -> None:
        self.title, self.began = title, time.monotonic()
        self.now: _Stage | None = None
        self.past: list[str] = []
        self.latest = ""

    def stage(self, name: str, total: float | None = None) -> None:
        self.end()
        self.now = _Stage(name, total)

    def update(self, done: float, **facts: Fact) -> None:
        if self.now is not None:
            self.now.update(done, facts)

    def say(self, text: str) -> None:
        self.past.append(text)

    def sample(self, text: str) -> None:
        self.latest = text

    def warn(self, text: str) -> None:
        self.past.append(f"warning: {text}")

    def end(self) -> None:
        """Move the current stage to the list of finished ones."""
        if self.now is not None:
            took = clock(time.monotonic() - self.now.began)
            self.past.append(f"{self.now.name:<12} {took:>6}  " + "  ".join(self.now.words()))
            self.now = None

    def draw(self) -> "RenderableType":
        """What the panel looks like at this moment."""
        from rich import box
        from rich.console import Group
        from rich.panel import Panel as Box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text
        rows: list[RenderableType] = [Text(line, style="yellow" if line.startswith("warning") else "dim")
                                      for line in self.past[-12:]]
        if self.now is not None:
            now, left = self.now, self.now.left()
            spent = clock(time.monotonic() - now.began)
            grid = Table.grid(padding=(0, 1))
            grid.add_row(Text(f"{now.name:<12}", style="bold"),
                         ProgressBar(total=now.total or 1.0, completed=now.done, width=36, pulse=now.total is None),
                         Text(f"{now.done / now.total:4.0%}" if now.total else ""),
                         Text(f"{clock(left)} left" if left is not None else spent, style="cyan"))
            rows += [grid, Text("  ".join(now.words()), style="green")]
        if self.latest:
            rows.append(Text("\n".join(self.latest.rstrip().splitlines()[-8:]), style="italic"))
        title = f"meristem {self.title}  {clock(time.monotonic() - self.began)}"
        return Box(Group(*rows), title=title, title_align="left", box=box.ROUNDED, border_style="green")


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
