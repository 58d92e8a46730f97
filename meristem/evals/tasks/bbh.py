"""BIG-Bench Hard: 27 tasks on which models of 2022 did worse than people; answers are written out.

Suzgun et al. 2022, https://arxiv.org/abs/2210.09261. An archive bbh.tar.gz, or the repository's folders bbh/ and
cot-prompts/. `--shots 1` to `3` shows the authors' worked examples with their chains of thought; the answer is then
what follows "the answer is".

    meristem evaluate RUN --tasks bbh --data FOLDER --shots 3
"""
import json
import re
from collections.abc import Sequence
from dataclasses import replace

from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.evals.base import Item, Metric
from meristem.evals.benchmark import Written

ON_REQUEST = True
SAID = re.compile(r"the answer is (.*?)\.?(?:\n|$)")


class BigBenchHard(Written):
    """Items of all 27 tasks; `group` begins with the task's name."""

    name, count = "bbh", 540
    length, stops = 96, ("Q:",)
    url = "https://github.com/suzgunmirac/BIG-Bench-Hard"
    folders = ("bbh",)
    templates = ("Q: {}\nA:", "Question: {}\nAnswer:", "{}\nAnswer:", "{}\n", "Here is a question. {}\nThe answer is",
                 "Please answer this question.\n{}\nAnswer:", "Exercise: {}\nSolution:", "User: {}\nAssistant:")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Exactly the right text."""
        return (Metric("bbh_exact", "BIG-Bench Hard: questions answered with exactly the right text", "share", "share",
                       True),)

    def read(self) -> list[Item]:
        """Every question of every task."""
        out = []
        for name, text in sorted(self.members("bbh.tar.gz").items()):
            if name.endswith(".json"):
                task = name.rpartition("/")[2].removesuffix(".json")
                out += [Item(f"{task}/{n}", self.templates[0].replace("{}", row["input"]), row["target"],
                             stem=row["input"], evidence=row["input"])
                        for n, row in enumerate(json.loads(text)["examples"])]
        return out

    def with_shots(self, corpus: Corpus, items: Sequence[Item], shots: int, seed: int) -> tuple[list[Item], list[str]]:
        """Each question after its task's own worked examples with their reasoning."""
        texts = self.members("bbh.tar.gz")
        if not any(name.endswith(".txt") for name in texts):   # the repository keeps them in a folder of their own
            texts = self.members("cot-prompts.zip")
        prompts = {name.rpartition("/")[2].removesuffix(".txt"): text.partition("-----\n")[2]
                   for name, text in texts.items() if name.endswith(".txt")}
        if not 1 <= shots <= 3 or not prompts:
            raise RequestError("bbh: the authors give three worked examples a task (cot-prompts/); ask for 1 to 3")

        def before(task: str) -> str:
            head, *examples = prompts[task].split("\nQ: ")
            return head + "".join(f"\nQ: {example.rstrip()}\n" for example in examples[:shots])
        return ([replace(i, prompt=f"{before(i.group.partition('/')[0])}\n{i.prompt} Let's think step by step.")
                 for i in items], [f"cot-prompts #{n}" for n in range(shots)])

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Letters swapped, but for the words that are to be sorted."""
        return [old if old.group.startswith("word_sorting") else new
                for old, new in zip(items, super().twin(items, seed), strict=True)]

    def grade(self, item: Item, text: str) -> list[float]:
        """The text, or what it says the answer is, without its full stop."""
        said = SAID.search(text)
        bare = said[1] if said else text.strip().split("\n")[0]
        return [float(bare.strip().rstrip(".").casefold() == item.answer.strip().casefold())]


TASK = BigBenchHard()
