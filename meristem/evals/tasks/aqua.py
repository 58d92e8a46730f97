"""AQuA-RAT: algebra problems in words with five answers.

Ling et al. 2017, https://arxiv.org/abs/1705.04146. Files: test.json and dev.json (for worked examples).

    meristem evaluate RUN --tasks aqua --data FOLDER
"""
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True
LETTERS = "ABCDE"


class Aqua(Choice):
    """Items are problems; the choices are the texts of the options."""

    name, count = "aqua", 254
    url = "https://github.com/google-deepmind/AQuA"
    folders = ("aqua-rat", "aqua")

    def read(self) -> list[Item]:
        """The test split."""
        return self._items("test.json")

    def examples(self) -> list[Item]:
        """The development split."""
        return self._items("dev.json")

    def _items(self, name: str) -> list[Item]:
        out = []
        for n, row in enumerate(self.rows(name, fields=("question", "options", "correct"))):
            choices, right = tuple(option.split(")", 1)[1] for option in row["options"]), LETTERS.index(row["correct"])
            out.append(Item(f"{name}/{n}", self.templates[0].replace("{}", row["question"]), choices[right],
                            choices=choices, right=right, stem=row["question"], evidence=row["question"]))
        return out


TASK = Aqua()
