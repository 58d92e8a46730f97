"""GSM8K: grade-school problems in words; the last number of the answer counts.

Cobbe et al. 2021, https://arxiv.org/abs/2110.14168. Files: test.jsonl and train.jsonl. `gsm8k_strict` wants the number
after "#### ", as in the training answers, `gsm8k_flexible` the last number of any answer (lm_eval's two filters). The
twin has other numbers where the worked answer's own calculations (<<16-3-4=9>>) give the new result, else letters
swapped.

    meristem evaluate RUN --tasks gsm8k --data FOLDER --shots 5
"""
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from meristem.evals.base import Item, Metric
from meristem.evals.benchmark import Written
from meristem.evals.perturb import NUMBERS, TOKEN, TYPOS, renumbered, typos

ON_REQUEST = True
STEP = re.compile(r"<<([^=<>]+)=([\d.]+)>>")
LAST = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
STRICT = re.compile(r"#### (-?[\d.,]+)")


class Gsm8k(Written):
    """Items are problems; `suffix` is the result."""

    name, count = "gsm8k", 200
    length, stops = 160, ("Question:",)
    url = "https://github.com/openai/grade-school-math"
    folders = ("gsm8k", "grade_school_math/data")
    perturbation = f"{NUMBERS}; where they cannot be found, {TYPOS}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Strict and flexible."""
        return (Metric("gsm8k_flexible", "gsm8k: problems whose answer ends in the right number", "share", "share",
                       True),
                Metric("gsm8k_strict", "gsm8k: problems with the right number after ####", "share", "share", True))

    def read(self) -> list[Item]:
        """The test split."""
        return self._items("test.jsonl")

    def examples(self) -> list[Item]:
        """The training split."""
        return self._items("train.jsonl")

    def grade(self, item: Item, text: str) -> list[float]:
        """Numbers are compared as numbers."""
        numbers, strict, wanted = LAST.findall(text), STRICT.search(text), number(item.suffix)
        return [float(bool(numbers) and number(numbers[-1]) == wanted),
                float(strict is not None and number(strict[1]) == wanted)]

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Other numbers, or other letters."""
        out = []
        for item in items:
            made = renumbered(item.stem, inlined(item.answer), seed)
            stem, result = (made[0], str(made[2])) if made else (typos(item.stem, seed), item.suffix)
            out.append(replace(item, prompt=item.prompt.replace(item.stem, stem), stem=stem, suffix=result,
                               answer=f"#### {result}"))
        return out

    def _items(self, name: str) -> list[Item]:
        return [Item(f"{name}/{n}", self.templates[0].replace("{}", row["question"]), row["answer"],
                     stem=row["question"], evidence=row["question"],
                     suffix=row["answer"].rpartition("#### ")[2].replace(",", ""))
                for n, row in enumerate(self.rows(name, fields=("question", "answer")))]


def inlined(answer: str) -> str:
    """The whole calculation of a worked answer in one expression: each step's result replaced by the step."""
    known: dict[str, str] = {}
    last = ""
    for expression, result in STEP.findall(answer):
        last = TOKEN.sub(lambda m, known=known: known.get(m[0], m[0]), expression)         # type: ignore[misc]
        known[result] = f"({last})"
    return last


def number(text: str) -> Fraction | None:
    """The number a text is, without currency and commas."""
    try:
        return Fraction(text.replace("$", "").replace(",", "").rstrip("."))
    except (ValueError, ZeroDivisionError):
        return None


TASK = Gsm8k()
