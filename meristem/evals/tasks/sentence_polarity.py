"""Sentence polarity: whether a sentence of a film review is for or against the film.

Pang & Lee 2005, https://arxiv.org/abs/cs/0506075. File: sentence_polarity.zip (rt-polarity.pos and .neg). One sentence
in ten, by its hash, is kept for worked examples.

    meristem evaluate RUN --tasks sentence_polarity --data FOLDER --shots 8
"""
from meristem.core.random import seed_of
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True
CHOICES = ("negative", "positive")
TEMPLATES: tuple[str, ...] = (
    "Review: {}\nSentiment:", "{}\nThis review is", "Sentence: {}\nPositive or negative?", "{} It is",
    "Film review: {}\nVerdict:", "Text: {}\nPolarity:", "{}\nOverall, the opinion is", "Q: {}\nA:")


class SentencePolarity(Choice):
    """Items are sentences."""

    name = "sentence_polarity"
    url = "https://www.cs.cornell.edu/people/pabo/movie-review-data/"
    folders = ("sentence-polarity",)
    templates = TEMPLATES

    def read(self) -> list[Item]:
        """Nine sentences of ten."""
        return [item for item in self._all() if seed_of(item.stem) % 10]

    def examples(self) -> list[Item]:
        """The others."""
        return [item for item in self._all() if not seed_of(item.stem) % 10]

    def _all(self) -> list[Item]:
        found = self.members("sentence_polarity.zip", "rt-polaritydata.tar.gz")
        by_label = {right: next(text for name, text in sorted(found.items()) if name.endswith(ending))
                    for right, ending in enumerate((".neg", ".pos"))}
        return [Item(f"{CHOICES[right]}/{n}", TEMPLATES[0].replace("{}", line.strip()), CHOICES[right],
                     choices=CHOICES, right=right, stem=line.strip(), evidence=line.strip())
                for right, text in by_label.items() for n, line in enumerate(text.split("\n")) if line.strip()]


TASK = SentencePolarity()
