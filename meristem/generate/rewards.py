"""Rewards that can be checked: what an answer is worth, from its text and the right one.

| reward | 1 for | else |
| --- | --- | --- |
| exact | the answer is the right one, spaces around it aside | 0 |
| last_line | its last line that is not empty is the right one: what comes before it is free | 0 |
| last_number | the last number in it is the right one, however written (18, 18.0, 1,234) | 0 |
| begins | it begins with the right one | 0 |

    score(named("exact"), ["4"], ["4"], "exact")        # [1.0]

Any function of (answer, right one) that returns a number can be given in Python. One that raises, or returns what is no
finite number, ends the run with a line that names it: a silent 0 would be trained on.
"""
import math
import re
from collections.abc import Callable, Sequence

from meristem.core.errors import RequestError, nearest

Check = Callable[[str, str], float]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact(answer: str, right: str) -> float:
    """1 for the right answer."""
    return float(answer.strip() == right.strip())


def last_line(answer: str, right: str) -> float:
    """1 where the last line is the right answer."""
    lines = answer.strip().splitlines()
    return float(bool(lines) and lines[-1].strip() == right.strip())


def last_number(answer: str, right: str) -> float:
    """1 where the last number is the right one's last number."""
    said, true = (NUMBER.findall(text) for text in (answer, right))
    return float(bool(said and true) and float(said[-1].replace(",", "")) == float(true[-1].replace(",", "")))


def begins(answer: str, right: str) -> float:
    """1 where the answer begins with the right one."""
    return float(answer.strip().startswith(right.strip()))


NAMED: dict[str, Check] = {"exact": exact, "last_line": last_line, "last_number": last_number, "begins": begins}


def named(name: str) -> Check:
    """A reward by its name; RequestError names the nearest."""
    if name not in NAMED:
        raise RequestError(f"no reward {name!r}; {nearest(name, NAMED)} (or the run folder of a reward model)")
    return NAMED[name]


def score(check: Check, answers: Sequence[str], right: Sequence[str], name: str) -> list[float]:
    """What each answer is worth; RequestError where the reward fails."""
    out: list[float] = []
    for answer, true in zip(answers, right, strict=True):
        try:
            value = float(check(answer, true))
        except Exception as error:                             # whatever a user's own function does
            raise RequestError(f"the reward {name} raised {type(error).__name__} ({error}) on the answer "
                               f"{answer[:60]!r}; mend it: what cannot be judged needs a reward too") from error
        if not math.isfinite(value):
            raise RequestError(f"the reward {name} gave {value} for the answer {answer[:60]!r}; it must be a finite "
                               "number")
        out.append(value)
    return out
