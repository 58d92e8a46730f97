"""Who is preferred, from kept preferences: a share with its interval for each two models, and a rank of all of them.

    found = tally(read(Path("preferences.jsonl")))
    found.pairs[0].share, found.pairs[0].interval              # of "a over b", Wilson's
    found.strengths["runs/dpo"].value                          # Bradley-Terry: log odds against an average model

Rows are those of `meristem compare` and of the server's page of two answers: chosen, rejected, model_chosen and
model_rejected; a row without the models' names, or of a model with itself, is counted and left out. Bradley & Terry
1952, "Rank analysis of incomplete block designs", with P(a over b) = 1 / (1 + exp(s_b - s_a)), found by the
minorisation of Hunter 2004, "MM algorithms for generalized Bradley-Terry models", section 2. Every model has half a won
and half a lost vote against an average one, which keeps a model that always won finite. The band of a strength is a
bootstrap over prompts, since votes on one prompt are not independent.
"""
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.evals.statistics import LEVEL, Interval, effective_items, wilson

RESAMPLES, ROUNDS, CLOSE = 400, 500, 1e-9
HALF = 0.5                              # of a vote won and lost by everybody against an average model


@dataclass(frozen=True)
class Vote:
    """One judgement: the model whose answer was chosen, the other, and what was asked."""

    winner: str
    loser: str
    prompt: str


@dataclass(frozen=True)
class Side:
    """How often `first` was chosen over `second`."""

    first: str
    second: str
    won: int
    n: int
    share: float                        # of the votes on the two
    interval: Interval

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out one half."""
        return not self.interval.low <= 0.5 <= self.interval.high


@dataclass(frozen=True)
class Strength:
    """Log odds against an average model, with their band."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Tally:
    """All of it; `left_out` rows named no two different models."""

    votes: int
    left_out: int
    pairs: tuple[Side, ...]
    strengths: dict[str, Strength]      # strongest first

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{s.first} over {s.second}: {s.won} of {s.n}, {100 * s.share:.1f} % ({100 * s.interval.low:.1f} to "
               f"{100 * s.interval.high:.1f}){'' if s.decided else ', undecided'}" for s in self.pairs]
        out += [f"{name}: {s.value:+.2f} ({s.interval.low:+.2f} to {s.interval.high:+.2f})"
                for name, s in self.strengths.items()]
        return out + ([f"{self.left_out} rows name no two models"] if self.left_out else [])


def read(path: Path) -> tuple[list[Vote], int]:
    """The votes of a file, and how many rows name no two different models; RequestError names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    votes, left_out = list[Vote](), 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise RequestError(f"{path}:{number}: {error}") from None
        if not isinstance(row, dict) or not {"chosen", "rejected"} <= row.keys():
            raise RequestError(f"{path}:{number}: a vote has chosen and rejected; {path} is no preference file")
        names = [row.get(key) for key in ("model_chosen", "model_rejected")]
        if not all(isinstance(name, str) and name for name in names) or names[0] == names[1]:
            left_out += 1
            continue
        votes.append(Vote(str(names[0]), str(names[1]), json.dumps(row.get("prompt", row.get("messages")))))
    return votes, left_out


def tally(found: tuple[Sequence[Vote], int], seed: int = 0) -> Tally:
    """Shares and strengths; RequestError without a vote between two models."""
    votes, left_out = found
    if not votes:
        raise RequestError(f"no vote names two different models ({left_out} rows do not); compare two models and keep "
                           "the file that the page saves")
    names = sorted({name for v in votes for name in (v.winner, v.loser)})
    sides = []
    for at, first in enumerate(names):
        for second in names[at + 1:]:
            some = [v for v in votes if {v.winner, v.loser} == {first, second}]
            if some:
                won = [float(v.winner == first) for v in some]
                worth = effective_items(won, [v.prompt for v in some])
                sides.append(Side(first, second, int(sum(won)), len(some), sum(won) / len(some),
                                  wilson(int(sum(won)), len(some), worth)))
    fitted = bradley_terry(Counter((v.winner, v.loser) for v in votes), names)
    groups: dict[str, list[Vote]] = {}
    for vote in votes:
        groups.setdefault(vote.prompt, []).append(vote)
    every, rng = list(groups.values()), np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        again = Counter((v.winner, v.loser) for i in rng.integers(0, len(every), len(every)) for v in every[i])
        draws.append([bradley_terry(again, names)[name] for name in names])
    low, high = np.quantile(np.array(draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    how = f"bootstrap over {len(every)} prompts, {RESAMPLES} resamples"
    made = {name: Strength(fitted[name], Interval(float(low[i]), float(high[i]), how)) for i, name in enumerate(names)}
    return Tally(len(votes), left_out, tuple(sides), dict(sorted(made.items(), key=lambda pair: -pair[1].value)))


def bradley_terry(wins: Mapping[tuple[str, str], int], names: Sequence[str]) -> dict[str, float]:
    """Log strength of each name, their mean 0, from (winner, loser) -> how often."""
    place = {name: i for i, name in enumerate(names)}
    count = np.zeros((len(names), len(names)))
    for (winner, loser), times in wins.items():
        count[place[winner], place[loser]] += times
    won, met = count.sum(1) + HALF, count + count.T
    p = np.ones(len(names))
    for _ in range(ROUNDS):
        new = won / ((met / (p[:, None] + p[None, :])).sum(1) + 2 * HALF / (p + 1))
        new /= math.exp(np.log(new).mean())
        if np.abs(np.log(new / p)).max() < CLOSE:
            break
        p = new
    return {name: float(np.log(p[i])) for name, i in place.items()}
