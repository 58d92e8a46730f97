"""Banking77: which of 77 intents a customer's message to a bank has; the model compares the intents' names.

Casanueva et al. 2020, https://arxiv.org/abs/2003.04807. Files: test.csv and train.csv (text, category).

    meristem evaluate RUN --tasks banking77 --data FOLDER --shots 8
"""
from collections.abc import Sequence

from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True
WAYS = ("Message: {}\nIntent:", "{}\nThis is about:", "Customer: {}\nTopic:", "Query: {}\nCategory:", "{}\nLabel:",
        "A customer writes: {}\nThe intent is", "Text: {}\nClass:", "Q: {}\nA:")


class Banking77(Choice):
    """Items are messages; names are the categories with spaces."""

    name, count = "banking77", 154
    url = "https://github.com/PolyAI-LDN/task-specific-datasets"
    folders = ("banking77", "banking_data")
    templates = WAYS

    def read(self) -> list[Item]:
        """The test split."""
        return self._items("test.csv")

    def examples(self) -> list[Item]:
        """The training split."""
        return self._items("train.csv")

    def _items(self, name: str) -> list[Item]:
        rows = self.rows(name, fields=("text", "category"))
        return intents([(row["text"], row["category"]) for row in rows], name, self.templates[0])


def intents(pairs: Sequence[tuple[str, str]], split: str, template: str) -> list[Item]:
    """Items of (text, intent) pairs, the choices being every intent among them."""
    names = sorted({label for _, label in pairs})
    choices, place = tuple(name.replace("_", " ") for name in names), {name: n for n, name in enumerate(names)}
    return [Item(f"{split}/{n}", template.replace("{}", text), choices[place[label]], choices=choices,
                 right=place[label], stem=text, evidence=text) for n, (text, label) in enumerate(pairs)]


TASK = Banking77()
