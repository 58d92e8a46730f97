"""Quality rules: one small function each that measures a text, and the range in which the value may lie.

Sources: Gopher (Rae et al. 2021, appendix A1.1), C4 (Raffel et al. 2020, section 2.2), StarCoder (Li et al. 2023,
section 3; its length rules are those of Codex, Chen et al. 2021, section 3.1). `judge(text, kind)` returns the first
rule a text breaks with the value, or None. Everything is counted by bytes.translate, split and set, in C.
"""
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

CODE, PROSE = "code", "prose"
LETTERS = (string.ascii_letters + "_").encode() + bytes(range(128, 256))    # other scripts are letters too
DIGITS, SPACES = string.digits.encode(), string.whitespace.encode()
IDEOGRAPHS = bytes(range(0xE3, 0xEA))   # first bytes of kana and Han in UTF-8
GENERATED = re.compile(rb"do not edit|auto-?generated|automatically generated|@generated"
                       rb"|generated from '|generated and used by", re.IGNORECASE)
GENERATED_WITHIN = 600                  # bytes from the start: further down it is talk about generated files


class Text:
    """The bytes of a text and what several rules need of them, each worked out once."""

    def __init__(self, text: str) -> None:
        self.text, self.raw = text, text.encode()

    @cached_property
    def lines(self) -> list[bytes]:
        """Lines that are not blank, without indentation."""
        return [s for line in self.raw.split(b"\n") if (s := line.strip())]

    @cached_property
    def words(self) -> list[bytes]:
        """Runs of anything but white space."""
        return self.raw.split()

    @cached_property
    def ink(self) -> int:
        """Bytes that are not white space, at least 1."""
        return max(1, len(self.raw.translate(None, SPACES)))


def size(text: Text) -> float:
    """Bytes that are not white space."""
    return text.ink


def longest_line(text: Text) -> float:
    """Bytes of the longest line."""
    return max(map(len, text.lines), default=0)


def mean_line(text: Text) -> float:
    """Mean bytes of the lines that are not blank."""
    return sum(map(len, text.lines)) / max(1, len(text.lines))


def letters(text: Text) -> float:
    """Share of letters in the bytes that are not white space."""
    return (len(text.raw) - len(text.raw.translate(None, LETTERS))) / text.ink


def digits(text: Text) -> float:
    """Share of digits in the bytes that are not white space: tables of numbers, dumps."""
    return (len(text.raw) - len(text.raw.translate(None, DIGITS))) / text.ink


def repeated_lines(text: Text) -> float:
    """Share of bytes in lines that stood before in the same text."""
    total = sum(map(len, text.lines))
    return 1 - sum(map(len, set(text.lines))) / total if total else 0.0


def generated(text: Text) -> float:
    """1 when the start says that a program wrote it."""
    return float(GENERATED.search(text.raw, 0, GENERATED_WITHIN) is not None)


def mean_word(text: Text) -> float:
    """Mean characters of a word; kana and Han, which stand in no spaces, count four to a word."""
    ideographs = len(text.raw) - len(text.raw.translate(None, IDEOGRAPHS))
    return len(text.text) / max(1, len(text.words) + ideographs / 4)


def words_with_letters(text: Text) -> float:
    """Share of words in which there is a letter; digits and punctuation alone make no prose."""
    bare = text.raw.translate(None, bytes(set(range(256)) - set(LETTERS) - set(SPACES)))
    return len(bare.split()) / max(1, len(text.words))


def placeholder(text: Text) -> float:
    """1 when it is typesetters' filling."""
    return float(b"lorem ipsum" in text.raw.lower())


@dataclass(frozen=True)
class Rule:
    """A measure and the closed range its value must lie in, for the kinds of text it is meant for."""

    measure: Callable[[Text], float]
    low: float
    high: float
    kinds: tuple[str, ...]
    source: str

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return self.measure.__name__


NONE = float("inf")
RULES = (                               # cheap ones first; the first that is broken is the one recorded
    Rule(size, 80, NONE, (CODE, PROSE), "ours: less teaches nothing and has no 5-word shingles to compare"),
    Rule(generated, 0, 0, (CODE, PROSE), "StarCoder, section 3.1"),
    Rule(digits, 0, 0.3, (CODE, PROSE), "StarCoder, section 3.1: numeric data"),
    Rule(letters, 0.25, 1, (CODE,), "StarCoder, section 3.1"),
    Rule(letters, 0.6, 1, (PROSE,), "Gopher, A1.1, on bytes"),
    Rule(longest_line, 0, 1000, (CODE,), "Codex, section 3.1"),
    Rule(mean_line, 0, 100, (CODE,), "Codex, section 3.1"),
    Rule(repeated_lines, 0, 0.6, (CODE,), "Gopher, A1.1, looser: code repeats its closing lines"),
    Rule(repeated_lines, 0, 0.2, (PROSE,), "Gopher, A1.1"),
    Rule(mean_word, 3, 10, (PROSE,), "Gopher, A1.1"),
    Rule(words_with_letters, 0.8, NONE, (PROSE,), "Gopher, A1.1"),
    Rule(placeholder, 0, 0, (PROSE,), "C4, section 2.2"),
)


def judge(text: str, kind: str) -> tuple[str, float] | None:
    """(rule, value) of the first rule that `text` breaks as "code" or "prose"; None when it passes all."""
    measured = Text(text)
    for rule in RULES:
        if kind in rule.kinds and not rule.low <= (value := rule.measure(measured)) <= rule.high:
            return rule.name, round(value, 4)
    return None


def ranges() -> dict[str, dict[str, list[float | None]]]:
    """{"letters": {"code": [0.25, 1]}}: what every rule allows, for the corpus summary; None is no bound."""
    table: dict[str, dict[str, list[float | None]]] = {}
    for rule in RULES:
        for kind in rule.kinds:
            table.setdefault(rule.name, {})[kind] = [rule.low, None if rule.high == NONE else rule.high]
    return table
