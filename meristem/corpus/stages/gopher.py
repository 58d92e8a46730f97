"""Gopher's rules for prose: quality (Rae et al. 2021, appendix A1.1) and repetition (table A1).

Words are runs of anything but white space. `--stages gopher:stop_words=0` for languages other than English, whose
stop words the paper counts.
"""
from collections import Counter
from dataclasses import dataclass

import numpy as np

from meristem.corpus.ngrams import ODD
from meristem.corpus.stages.base import Batch, judged

STOP = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf", "\u00b7")
TOP = {2: 0.20, 3: 0.18, 4: 0.16}       # share of characters in the most frequent n-gram
AGAIN = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}    # in n-grams that stood before
LINES, CHARACTERS = 0.30, 0.20          # share of repeated lines and paragraphs, and of their characters


@dataclass(frozen=True)
class Stage:
    """`stop_words`: how many different English ones a document must have."""

    stop_words: int = 2

    def __call__(self, batch: Batch) -> Batch:
        """The batch with verdicts on its prose; rules are called `gopher_...`."""
        return judged(batch, lambda text, kind: self._judge(text) if kind == "prose" else None)

    def _judge(self, text: str) -> tuple[str, float] | None:
        words = text.split()
        lines = [line for part in text.split("\n") if (line := part.strip())]
        n = max(1, len(words))
        if not 50 <= len(words) <= 100_000:
            return "gopher_words", len(words)
        if not 3 <= (mean := sum(map(len, words)) / n) <= 10:
            return "gopher_mean_word", round(mean, 4)
        if (share := (text.count("#") + text.count("...") + text.count("\u2026")) / n) > 0.1:
            return "gopher_symbols", round(share, 4)
        if (share := sum(line.startswith(BULLETS) for line in lines) / len(lines)) > 0.9:
            return "gopher_bullets", round(share, 4)
        if (share := sum(line.endswith(("...", "\u2026")) for line in lines) / len(lines)) > 0.3:
            return "gopher_ellipses", round(share, 4)
        if (share := sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) / n) < 0.8:
            return "gopher_letters", round(share, 4)
        if (found := _stop_words(words, self.stop_words)) < self.stop_words:
            return "gopher_stop_words", found
        return _repeats(text, lines, words)


def _stop_words(words: list[str], enough: int) -> int:
    """How many different stop words there are; the count ends at `enough`."""
    found: set[str] = set()
    for word in words:
        if len(found) >= enough:
            break
        if len(word) < 7 and (bare := word.lower().strip(".,;:!?\"'")) in STOP:
            found.add(bare)
    return len(found)


def _repeats(text: str, lines: list[str], words: list[str]) -> tuple[str, float] | None:
    """The first rule on repetition that is broken."""
    total = len(text)
    for name, parts in (("lines", lines), ("paragraphs", [p for q in text.split("\n\n") if (p := q.strip())])):
        if len(set(parts)) == len(parts):
            continue
        copies = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
        if (share := len(copies) / len(parts)) > LINES:
            return f"gopher_repeated_{name}", round(share, 4)
        if (share := sum(map(len, copies)) / total) > CHARACTERS:
            return f"gopher_characters_in_repeated_{name}", round(share, 4)
    hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    most = len(words)                                          # no 3-gram is more frequent than the first 2-gram
    for n, limit in TOP.items():
        if most * n * int(lengths.max()) / total <= limit:
            continue
        most, size = top_gram(hashes, lengths, n)
        if most > 1 and (share := size / total) > limit:
            return f"gopher_top_{n}_gram", round(share, 4)
    for n, limit in AGAIN.items():
        share = repeated(hashes, lengths, n) / total
        if share > limit:
            return f"gopher_repeated_{n}_grams", round(share, 4)
        if share <= min(AGAIN.values()):                       # longer ones cover no more
            return None
    return None


def top_gram(hashes: np.ndarray, lengths: np.ndarray, n: int) -> tuple[int, int]:
    """(how often the most frequent n-gram occurs, the most characters that one n-gram takes, all occurrences)."""
    grams = _grams(hashes, n)
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    if not len(counts):
        return 0, 0
    sizes = np.convolve(lengths, np.ones(n, np.int64), "valid")[first]
    return int(counts.max()), int((sizes * np.where(counts > 1, counts, 0)).max())


def repeated(hashes: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Characters of words that are in an n-gram which stood before, each word once."""
    grams = _grams(hashes, n)
    again = np.ones(len(grams), dtype=bool)
    again[np.unique(grams, return_index=True)[1]] = False
    if not again.any():
        return 0
    covered = np.convolve(again, np.ones(n, np.int64)) > 0
    return int(lengths[covered].sum())


def _grams(hashes: np.ndarray, n: int) -> np.ndarray:
    """A hash of each run of n words."""
    if len(hashes) < n:
        return np.empty(0, dtype=np.uint64)
    out = np.zeros(len(hashes) - n + 1, dtype=np.uint64)
    for k in range(n):
        out = out * ODD + hashes[k: len(hashes) - n + 1 + k]
    return out
