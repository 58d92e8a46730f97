"""WinoGrande: which of two names a pronoun's place stands for; the end of the sentence is scored after each.

Sakaguchi et al. 2019, https://arxiv.org/abs/1907.10641; partial scoring as in Trinh & Le 2018 and lm_eval. Files:
dev.jsonl of the authors, or winogrande.test.json in the form of instructions. The twin exchanges the two names
everywhere, so the other one is right. The sentence is its own prompt: no other templates.

    meristem evaluate RUN --tasks winogrande --data FOLDER
"""
import re
from collections.abc import Sequence
from typing import ClassVar

from meristem.evals.base import Item
from meristem.evals.benchmark import Choice
from meristem.evals.files import Row

ON_REQUEST = True


class WinoGrande(Choice):
    """Items have a context for each name; the answer that follows both is the end of the sentence."""

    name = "winogrande"
    url = "https://winogrande.allenai.org"
    folders = ("commonsense-mc", "winogrande")
    normed: ClassVar[bool] = False
    templates = ()
    perturbation = "the two names exchanged, so that the other one is right"

    def read(self) -> list[Item]:
        """The labelled sentences."""
        rows = self.rows("winogrande.test.json", "dev.jsonl")
        return [item(f"dev/{n}", *parsed(row)) for n, row in enumerate(rows)]

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """The sentences with the names exchanged."""
        return [item(old.group, swapped(old.stem, *old.suffix.split("\n")), tuple(old.suffix.split("\n")),
                     1 - old.right) for old in items]


def parsed(row: Row) -> tuple[str, tuple[str, ...], int]:
    """Sentence, the two names, and the right one's number."""
    if "instruction" in row:
        body = row["instruction"].split("the given sentence: ", 1)[1].rsplit("Answer format:", 1)[0]
        sentence, names = body.rsplit("Option1: ", 1)
        first, second = names.split("Option2: ", 1)
        return sentence.strip(), (first.strip(), second.strip()), int(row["answer"][-1]) - 1
    return row["sentence"], (row["option1"], row["option2"]), int(row["answer"]) - 1


def item(group: str, sentence: str, names: tuple[str, ...], right: int) -> Item:
    """The item of a sentence with _ where a name belongs; `suffix` keeps the names."""
    before, _, after = sentence.partition("_")
    contexts = tuple(before + name for name in names)
    return Item(group, contexts[right], after.strip(), choices=contexts, contexts=contexts, right=right, stem=sentence,
                suffix="\n".join(names), evidence=sentence.replace("_", names[right]))


def swapped(sentence: str, first: str, second: str) -> str:
    """The sentence with two names exchanged, whole words only."""
    places = re.compile(rf"\b({re.escape(first)}|{re.escape(second)})\b")
    return places.sub(lambda m: second if m[0] == first else first, sentence)


TASK = WinoGrande()
