"""SVAMP: one-step arithmetic problems made to punish shortcuts; the last number of the answer counts.

Patel et al. 2021, https://arxiv.org/abs/2103.07191. File: SVAMP.json, of which every fifth problem is kept for worked
examples. The twin has other numbers and what the problem's own equation then gives.

    meristem evaluate RUN --tasks svamp --data FOLDER --shots 4
"""
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from meristem.evals.base import Item, Metric
from meristem.evals.benchmark import Written
from meristem.evals.perturb import NUMBERS, TYPOS, renumbered, typos
from meristem.evals.tasks.gsm8k import LAST, number

ON_REQUEST = True


class Svamp(Written):
    """Items are problems; `suffix` is the equation."""

    name = "svamp"
    length = 24
    url = "https://github.com/arkilpatel/SVAMP"
    folders = ("svamp",)
    perturbation = f"{NUMBERS}; where they cannot be found, {TYPOS}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Right or wrong."""
        return (Metric("svamp_right", "svamp: problems whose answer ends in the right number", "share", "share", True),)

    def read(self) -> list[Item]:
        """Four problems of five."""
        return [item for n, item in enumerate(self._all()) if n % 5]

    def examples(self) -> list[Item]:
        """The others."""
        return self._all()[::5]

    def grade(self, item: Item, text: str) -> list[float]:
        """The last number of the first line."""
        found = LAST.findall(text)
        return [float(bool(found) and number(found[-1]) == number(item.answer))]

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Other numbers, or other letters."""
        out = []
        for item in items:
            made = renumbered(item.stem, item.suffix, seed)
            stem, answer = (made[0], str(made[2])) if made else (typos(item.stem, seed), item.answer)
            out.append(replace(item, prompt=item.prompt.replace(item.stem, stem), stem=stem, answer=answer))
        return out

    def _all(self) -> list[Item]:
        out = []
        for row in self.rows("SVAMP.json", fields=("Body", "Question", "Answer", "Equation")):
            stem = f"{row['Body'].strip().rstrip('.')}. {row['Question'].strip()}"
            out.append(Item(row["ID"], self.templates[0].replace("{}", stem), str(Fraction(str(row["Answer"]))),
                            stem=stem, suffix=row["Equation"].replace(".0 ", " ").strip(), evidence=stem))
        return out


TASK = Svamp()
