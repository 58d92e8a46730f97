"""The licence gate: documents stay whose licence is on a list; an unknown one is not, unless that is asked for.

Licences are SPDX expressions (SPDX 2.3, annex D), as the files, rows and pages state them (corpus/licence.py): of
`A OR B` one must be allowed, of `A AND B` both; an exception (`WITH`) only adds rights. `permissive` stands for the
list of The Stack's kind (Kocetkov et al. 2022, section 2.2).

    meristem curate src/ --stages "licences:allow=permissive rules" --out runs/code
"""
import re
from dataclasses import dataclass

from meristem.core.errors import RequestError
from meristem.corpus.licence import UNKNOWN
from meristem.corpus.stages.base import Batch

PERMISSIVE = ("0BSD", "AFL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause",
              "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ECL-2.0", "ISC", "MIT", "MIT-0", "NCSA", "PostgreSQL",
              "PSF-2.0", "Python-2.0", "Unicode-3.0", "Unlicense", "UPL-1.0", "W3C", "WTFPL", "X11", "Zlib")
WORD = re.compile(r"\(|\)|[A-Za-z0-9.+:-]+")


@dataclass(frozen=True)
class Stage:
    """`allow`: SPDX identifiers parted by commas, or `permissive`, or both; `unknown`: whether no licence is enough."""

    allow: str = "permissive"
    unknown: bool = False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with documents dropped by `licence`; the value is the licence they have."""
        names = [name.strip() for name in self.allow.split(",") if name.strip()]
        if not names and not self.unknown:
            raise RequestError("licences:allow is empty, so nothing would stay; write permissive or SPDX identifiers")
        allowed = {name.lower() for word in names for name in (PERMISSIVE if word == "permissive" else (word,))}
        rules, values = list(batch["rule"]), list(batch["value"])
        for n, licence in enumerate(batch["licence"]):
            if not rules[n] and not (self.unknown if licence in ("", UNKNOWN) else fits(licence, allowed)):
                rules[n], values[n] = "licence", licence or UNKNOWN
        return {**batch, "rule": rules, "value": values}


def fits(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression grants one of the `allowed` licences (lower case); False for what is no expression."""
    words = WORD.findall(expression)
    if "".join(words) != re.sub(r"\s", "", expression):
        return False
    try:
        value, rest = _either(words, allowed)
    except (IndexError, RecursionError):
        return False
    return value and not rest


def _either(words: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, words = _both(words, allowed)
    while words and words[0].upper() == "OR":
        other, words = _both(words[1:], allowed)
        value = value or other
    return value, words


def _both(words: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, words = _one(words, allowed)
    while words and words[0].upper() == "AND":
        other, words = _one(words[1:], allowed)
        value = value and other
    return value, words


def _one(words: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    if words[0] == "(":
        value, words = _either(words[1:], allowed)
        return (value, words[1:]) if words and words[0] == ")" else (False, ["?"])
    value = words[0].lower() in allowed
    return value, words[3:] if len(words) > 2 and words[1].upper() == "WITH" else words[1:]
