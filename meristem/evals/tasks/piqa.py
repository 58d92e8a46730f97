"""PIQA: which of two ways to reach a goal works.

Bisk et al. 2020, https://arxiv.org/abs/1911.11641. Files: valid.jsonl and valid-labels.lst; prompt as in lm_eval.

    meristem evaluate RUN --tasks piqa --data FOLDER
"""
from meristem.core.errors import RequestError
from meristem.evals import files
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True


class Piqa(Choice):
    """Items are goals with two solutions."""

    name = "piqa"
    url = "https://yonatanbisk.com/piqa/"
    folders = ("piqa",)

    def read(self) -> list[Item]:
        """The validation split: the labels of the test split were never published."""
        rows = self.rows("valid.jsonl", "train.jsonl", fields=("goal", "sol1", "sol2"))
        where = files.find(self._from(), "valid-labels.lst", "train-labels.lst", folders=self.folders, url=self.url)
        labels = [int(word) for word in files.read(where).split()]
        if len(labels) != len(rows):
            raise RequestError(f"{where} has {len(labels)} labels for {len(rows)} questions")
        return [Item(f"valid/{n}", self.templates[0].replace("{}", row["goal"]), (row["sol1"], row["sol2"])[right],
                     choices=(row["sol1"], row["sol2"]), right=right, stem=row["goal"],
                     evidence=f"{row['goal']} {(row['sol1'], row['sol2'])[right]}")
                for n, (row, right) in enumerate(zip(rows, labels, strict=True))]


TASK = Piqa()
