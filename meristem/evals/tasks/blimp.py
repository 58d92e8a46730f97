"""BLiMP: of two sentences that differ in one word or two, the grammatical one should be likelier.

Warstadt et al. 2020, https://arxiv.org/abs/1912.00582. The files are data/*.jsonl of github.com/alexwarstadt/blimp, in
a folder or archive called `paradigms` (or `data`). Sentences are compared whole, so there is no prompt to put in other
words, and letters that are swapped would make both sentences wrong: neither twin nor templates.

    meristem evaluate RUN --tasks blimp --data FOLDER
"""
from typing import ClassVar

from meristem.evals import files
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True


class Blimp(Choice):
    """Items are minimal pairs; the good sentence is the first choice."""

    name, count = "blimp", 1000
    url = "https://github.com/alexwarstadt/blimp"
    folders = ("blimp",)
    normed: ClassVar[bool] = False
    templates = ()
    perturbation = ""

    def read(self) -> list[Item]:
        """Every pair of every paradigm."""
        found = self.members("paradigms.tar.gz", "data.zip")
        return [Item(f"{name}/{row['pairID']}", "", row["sentence_good"], choices=(row["sentence_good"],
                                                                                   row["sentence_bad"]), right=0)
                for name, text in sorted(found.items()) if name.endswith(".jsonl")
                for row in files.parse(text, name, name)]


TASK = Blimp()
