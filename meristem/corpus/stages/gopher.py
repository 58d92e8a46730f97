"""Gopher's rules for prose: quality (Rae et al. 2021, appendix A1.1) and repetition (table A1).

Words are runs of anything but white space. `--stages gopher:stop_words=0` for languages other than English, whose
stop words the paper counts.
"""
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

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
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        n = max(1, len(words))
        checks = (
            ("gopher_words", len(words), 50 <= len(words) <= 100_000),
            ("gopher_mean_word", mean := sum(map(len, words)) / n, 3 <= mean <= 10),
            ("gopher_symbols", symbols := (text.count("#") + text.count("...") + text.count("\u2026")) / n,
             symbols <= 0.1),
            ("gopher_bullets", bullets := _share(lines, BULLETS, str.startswith), bullets <= 0.9),
            ("gopher_ellipses", dots := _share(lines, ("...", "\u2026"), str.endswith), dots <= 0.3),
            ("gopher_letters", letters := sum(any(c.isalpha() for c in w) for w in words) / n, letters >= 0.8),
            ("gopher_stop_words", found := len(STOP & {w.lower().strip(".,;:!?\"'") for w in words}),
             found >= self.stop_words),
        )
        return next(((rule, round(value, 4)) for rule, value, fine in checks if not fine), None) or _repeats(
            text, lines, words)


def _share(lines: list[str], marks: tuple[str, ...], test: Callable[[str, tuple[str, ...]], bool]) -> float:
    return sum(test(line, marks) for line in lines) / max(1, len(lines))


def _repeats(text: str, lines: list[str], words: list[str]) -> tuple[str, float] | None:
    """The first rule on repetition that is broken."""
    total = max(1, len(text))
    for name, parts in (("lines", lines), ("paragraphs", [p.strip() for p in text.split("\n\n") if p.strip()])):
        copies = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
        if (share := len(copies) / max(1, len(parts))) > LINES:
            return f"gopher_repeated_{name}", round(share, 4)
        if (share := sum(map(len, copies)) / total) > CHARACTERS:
            return f"gopher_characters_in_repeated_{name}", round(share, 4)
    lengths = [len(word) for word in words]
    for n, most in TOP.items():
        counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        if counts:
            gram, count = max(counts.items(), key=lambda item: item[1] * sum(map(len, item[0])))
            if count > 1 and (share := count * sum(map(len, gram)) / total) > most:
                return f"gopher_top_{n}_gram", round(share, 4)
    for n, most in AGAIN.items():
        if (share := _again(words, lengths, n) / total) > most:
            return f"gopher_repeated_{n}_grams", round(share, 4)
    return None


def _again(words: list[str], lengths: list[int], n: int) -> int:
    """Characters of words that are in an n-gram which stood before, each word once."""
    seen: set[tuple[str, ...]] = set()
    covered, size = 0, 0
    for start, gram in enumerate(zip(*(words[i:] for i in range(n)), strict=False)):
        if gram in seen:
            size += sum(lengths[max(covered, start): start + n])
            covered = start + n
        seen.add(gram)
    return size
