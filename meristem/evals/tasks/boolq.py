"""BoolQ: questions that people asked a search engine, to be answered yes or no after a passage.

Clark et al. 2019, https://arxiv.org/abs/1905.10044. Files: dev.jsonl of the authors (with passages), or boolq.test.json
in the form of instructions (without); prompt as in lm_eval.

    meristem evaluate RUN --tasks boolq --data FOLDER
"""
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True
CHOICES = ("no", "yes")


class BoolQ(Choice):
    """Items are yes-or-no questions."""

    name = "boolq"
    url = "https://github.com/google-research-datasets/boolean-questions"
    folders = ("commonsense-mc", "boolq")
    templates = ("{}?\nAnswer:", "{}? The answer is", "{}? Yes or no?\nAnswer:", "Is this so? {}?\nAnswer:",
                 "Answer yes or no. {}?\n", "Q: {}?\nA:", "User: {}?\nAssistant:", "{}?")

    def read(self) -> list[Item]:
        """The labelled questions."""
        out = []
        for n, row in enumerate(self.rows("boolq.test.json", "dev.jsonl")):
            if "instruction" in row:
                question = row["instruction"].split("question: ", 1)[1].rsplit("\n\nAnswer format:", 1)[0].strip()
                passage, right = "", row["answer"] == "true"
            else:
                question, passage, right = row["question"], row["passage"], bool(row["answer"])
            stem = f"{passage}\nQuestion: {question.removesuffix('?')}"
            out.append(Item(f"dev/{n}", self.templates[0].replace("{}", stem), CHOICES[right], choices=CHOICES,
                            right=int(right), stem=stem, evidence=f"{passage} {question}".strip()))
        return out


TASK = BoolQ()
