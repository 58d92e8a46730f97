"""ARC-Easy: grade-school science questions with four answers.

Clark et al. 2018, https://arxiv.org/abs/1803.05457. Files: AI2's own ARC-Easy-Test.jsonl, or ARC-Easy.test.json in the
form of instructions that LoRA papers use; prompt as in lm_eval.

    meristem evaluate RUN --tasks arc_easy,arc_challenge --data FOLDER
"""
import re
from typing import ClassVar

from meristem.core.errors import RequestError
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice
from meristem.evals.files import Row

ON_REQUEST = True
OPTION = re.compile(r"\s*\bAnswer\d: ")


class Arc(Choice):
    """Items are questions with three to five answers."""

    part: ClassVar[str]
    url = "https://allenai.org/data/arc"
    folders = ("commonsense-mc", "arc")

    def read(self) -> list[Item]:
        """The test split."""
        return self._items(self.rows(f"{self.part}.test.json", f"{self.part}-Test.jsonl"), "test")

    def examples(self) -> list[Item]:
        """The training split."""
        return self._items(self.rows(f"{self.part}.train.json", f"{self.part}-Train.jsonl"), "train")

    def _items(self, rows: list[Row], split: str) -> list[Item]:
        out = []
        for n, row in enumerate(rows):
            question, choices, right = parsed(row)
            out.append(Item(f"{split}/{n}", self.templates[0].replace("{}", question), choices[right], choices=choices,
                            right=right, stem=question, evidence=f"{question} {choices[right]}"))
        return out


def parsed(row: Row) -> tuple[str, tuple[str, ...], int]:
    """Question, choices and the right one's number, of either form of the data."""
    if "instruction" in row:
        body = row["instruction"].split("question: ", 1)[1].rsplit("Answer format:", 1)[0]
        question, *choices = OPTION.split(body)
        return question.strip(), tuple(choice.strip() for choice in choices), int(row["answer"][len("answer"):]) - 1
    if "answerKey" in row:
        options = row["question"]["choices"]
        labels = [option["label"] for option in options]
        return row["question"]["stem"], tuple(o["text"] for o in options), labels.index(row["answerKey"])
    raise RequestError("a row is no ARC question: it has neither answerKey nor instruction")


class ArcEasy(Arc):
    """The questions that word overlap and retrieval could answer."""

    name, part = "arc_easy", "ARC-Easy"


TASK = ArcEasy()
