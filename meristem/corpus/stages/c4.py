"""C4's rules for prose (Raffel et al. 2020, 2.2): lines that are no sentences go, pages with too few go too.

A line stays when it ends in a terminal punctuation mark, has five words, and does not speak of javascript, cookies or
terms of use; citation marks of Wikipedia are taken out of it. A page with "lorem ipsum", a curly bracket, or fewer than
`sentences` sentences is dropped. The ledger says how many lines went (`removed_lines`).
"""
import re
from dataclasses import dataclass
from typing import Any

from meristem.corpus.stages.base import Batch, changed, judged

ENDS = (".", "!", "?", '"', "\u201d", "\u3002", "\uff01", "\uff1f")
WORDS = 5
POLICY = ("javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
          "use cookies")
CITATION = re.compile(r"\[\d{1,4}\]|\[edit\]|\[citation needed\]")
SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f]+[\"'\u201d)\]]*(?:\s|$)")


@dataclass(frozen=True)
class Stage:
    """`sentences`: the fewest a page may have; `brackets`: whether a { drops a page, as in the paper."""

    sentences: int = 3
    brackets: bool = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with lines removed from its prose and verdicts on what is left; rules are called `c4_...`."""
        before = judged(batch, lambda text, kind: self._before(text) if kind == "prose" else None)
        cut = changed(before, lambda text, kind: lines_of(text) if kind == "prose" else (text, {}))
        return judged(cut, lambda text, kind: self._after(text) if kind == "prose" else None)

    def _before(self, text: str) -> tuple[str, int] | None:
        if (place := text.lower().find("lorem ipsum")) >= 0:
            return "c4_placeholder", place
        if self.brackets and (place := text.find("{")) >= 0:
            return "c4_bracket", place
        return None

    def _after(self, text: str) -> tuple[str, int] | None:
        found = len(SENTENCE.findall(text))
        return ("c4_sentences", found) if found < self.sentences else None


def lines_of(text: str) -> tuple[str, dict[str, Any]]:
    """(the lines that stay, {"removed_lines": n})."""
    low = text.lower()
    policy = tuple(word for word in POLICY if word in low)     # few pages speak of any
    lines = CITATION.sub("", text).split("\n") if "[" in text else text.split("\n")
    kept = [line for line in lines if not (bare := line.strip()) or _stays(bare, policy)]
    removed = len(lines) - len(kept)
    return ("\n".join(kept), {"removed_lines": removed} if removed else {})


def _stays(line: str, policy: tuple[str, ...]) -> bool:
    if not line.endswith(ENDS) or line.endswith("...") or len(line.split(None, WORDS)) < WORDS:
        return False
    low = line.lower() if policy else ""
    return not any(word in low for word in policy)
