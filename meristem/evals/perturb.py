"""Small changes to questions that leave their meaning: letters swapped, numbers changed with the answer recomputed.

    typos("How do I ready a guinea pig cage?", seed=3)          # "How do I raedy a guinea pig cage?"

Letters: Belinkov & Bisk 2018, https://arxiv.org/abs/1711.02173, section 3.1 ("swap"): two neighbouring letters inside a
word, the first and last stay. Numbers: as GSM-Symbolic does (Mirzadeh et al. 2024, https://arxiv.org/abs/2410.05229):
who understood the problem solves it with other numbers too.
"""
import re
from fractions import Fraction

import numpy as np

from meristem.core.random import seed_of

EVERY = 6                               # a word in so many is changed
TYPOS = f"two neighbouring letters swapped in one word of {EVERY}"
NUMBERS = "other numbers, with the answer they give"
WORD = re.compile(r"[^\W\d_]{4,}")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/()]")


def typos(text: str, seed: int, every: int = EVERY) -> str:
    """Swap two inner letters of one word in `every` (of four letters or more), at least of one; words stay in place."""
    words = [(m, places) for m in WORD.finditer(text)
             if (places := [at for at in range(m.start() + 1, m.end() - 2) if text[at] != text[at + 1]])]
    if not words:
        return text
    rng = np.random.default_rng(seed_of(seed, "typos", text))
    chosen = sorted(rng.permutation(len(words))[:max(1, round(len(words) / every))])
    out = list(text)
    for number in chosen:
        places = words[number][1]
        at = places[int(rng.integers(len(places)))]
        out[at], out[at + 1] = out[at + 1], out[at]
    return "".join(out)


def renumbered(text: str, equation: str, seed: int) -> tuple[str, str, Fraction] | None:
    """Text and equation with other whole numbers, and what the equation then gives; None where that is not possible.

    Every number of the equation must stand in the text, and the answer must stay whole, positive and below 10,000.
    """
    wanted = list(dict.fromkeys(Fraction(t) for t in TOKEN.findall(equation) if t[0].isdigit()))
    stands = {Fraction(t) for t in NUMBER.findall(text)}
    if not wanted or any(value not in stands or value.denominator != 1 or value < 2 for value in wanted):
        return None
    rng = np.random.default_rng(seed_of(seed, "numbers", text))
    for _ in range(20):
        new = {value: Fraction(int(value) + int(rng.integers(1, max(3, int(value) // 2 + 1)))) for value in wanted}
        changed = re.sub(TOKEN, lambda m, new=new: _number(m[0], new), equation)           # type: ignore[misc]
        answer = calculate(changed)
        if answer is not None and answer.denominator == 1 and 0 < answer < 10_000:
            return re.sub(NUMBER, lambda m, new=new: _number(m[0], new), text), changed, answer    # type: ignore[misc]
    return None


def calculate(expression: str) -> Fraction | None:
    """The value of + - * / and brackets over numbers, exactly; None when it is none, or divides by zero."""
    tokens = TOKEN.findall(expression)
    if "".join(tokens) != re.sub(r"\s", "", expression):
        return None
    try:
        value, rest = _sum(tokens, 0)
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return value if rest == len(tokens) else None


def _number(token: str, new: dict[Fraction, Fraction]) -> str:
    return str(new.get(Fraction(token), token)) if token[0].isdigit() else token


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        other, after = _product(tokens, at + 1)
        value, at = (value + other if tokens[at] == "+" else value - other), after
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        other, after = _factor(tokens, at + 1)
        value, at = (value * other if tokens[at] == "*" else value / other), after
    return value, at


def _factor(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "-":
        value, at = _factor(tokens, at + 1)
        return -value, at
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("a bracket is not closed")
        return value, at + 1
    return Fraction(tokens[at]), at + 1
