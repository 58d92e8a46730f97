"""FineWeb's three rules for prose, found by comparing good and bad crawls (Penedo et al. 2024, section 3.6).

Dropped are pages where at most 12 % of the lines end in punctuation, at least 67 % of the lines have fewer than 30
characters, or at least 10 % of the characters stand in lines that stood before.
"""
from collections import Counter
from dataclasses import dataclass

from meristem.corpus.stages.base import Batch, judged

ENDS = (".", "!", "?", '"', "'", "\u201d", "\u2019", ":", ";", "\u3002", "\uff01", "\uff1f")
SHORT = 30


@dataclass(frozen=True)
class Stage:
    """`ends`, `short`, `repeated`: the three shares."""

    ends: float = 0.12
    short: float = 0.67
    repeated: float = 0.1

    def __call__(self, batch: Batch) -> Batch:
        """The batch with verdicts on its prose; rules are called `fineweb_...`."""
        return judged(batch, lambda text, kind: self._judge(text) if kind == "prose" else None)

    def _judge(self, text: str) -> tuple[str, float] | None:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            return "fineweb_ends", 0.0
        if (share := sum(line.endswith(ENDS) for line in lines) / len(lines)) <= self.ends:
            return "fineweb_ends", round(share, 4)
        if (share := sum(len(line) < SHORT for line in lines) / len(lines)) >= self.short:
            return "fineweb_short_lines", round(share, 4)
        again = sum((count - 1) * len(line) for line, count in Counter(lines).items())
        if (share := again / sum(map(len, lines))) >= self.repeated:
            return "fineweb_repeated", round(share, 4)
        return None
