"""Natural Questions, open: short facts from memory, right when any of the known answers is met.

Lee et al. 2019, https://arxiv.org/abs/1906.00300. File: NQ-open.dev.jsonl; prompt and stop texts as in lm_eval.

    meristem evaluate RUN --tasks nq_open --data FOLDER
"""
from meristem.evals.base import Item, Metric
from meristem.evals.benchmark import Written
from meristem.evals.words import plain

ON_REQUEST = True


class NaturalQuestions(Written):
    """Items are questions; `suffix` holds every accepted answer, a line each."""

    name = "nq_open"
    length, stops = 16, ("\n", ".", ",")
    url = "https://github.com/google-research-datasets/natural-questions"
    folders = ("nq-open-dev", "nq_open")
    templates = ("Q: {}?\nA:", "Question: {}?\nAnswer:", "{}?\nAnswer:", "{}?\n", "Trivia: {}?\nThe answer is",
                 "Please answer this question.\n{}?\nAnswer:", "User: {}?\nAssistant:", "Tell me, {}?\nIt is")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Any of the answers."""
        return (Metric("nq_exact", "nq_open: questions answered with one of the known answers", "share", "share",
                       True),)

    def read(self) -> list[Item]:
        """The development split."""
        return [Item(f"dev/{n}", self.templates[0].replace("{}", row["question"]), row["answer"][0],
                     suffix="\n".join(row["answer"]), stem=row["question"], evidence=row["question"])
                for n, row in enumerate(self.rows("NQ-open.dev.jsonl", fields=("question", "answer")))]

    def grade(self, item: Item, text: str) -> list[float]:
        """Case, punctuation and articles do not count."""
        return [float(plain(text) in {plain(answer) for answer in item.suffix.split("\n")})]


TASK = NaturalQuestions()
