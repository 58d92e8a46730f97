"""Best of n and rejection sampling: answer many times, keep what a judge likes best.

    made = best_of(module, reader, rows, judge, 16, Sampling(length=64, temperature=1.0))
    rows = accepted(made, 1.0)                                  # worked examples for the recipe sft

Best of n (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325 section 4.2) spends its compute when it answers.
Rejection sampling (RAFT: Dong et al. 2023, https://arxiv.org/abs/2304.06767; STaR: Zelikman et al. 2022,
https://arxiv.org/abs/2203.14465) trains on the answers that were kept. A judge is a reward that can be checked
(`generate.rewards`) or a reward model's, which reads the answer's tokens.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from meristem.core.errors import RequestError
from meristem.data.conversations import Fields, Reader
from meristem.generate.autoregressive import generate
from meristem.generate.rewards import Check, score
from meristem.generate.sampling import Sampling

Judge = Callable[[Sequence[np.ndarray]], list[float]]          # rows of tokens, prompt and answer, to rewards


@dataclass(frozen=True)
class Best:
    """All answers to one row's prompt, what each is worth, and which is the first of the best."""

    row: Fields
    answers: list[str]
    worth: list[float]

    @property
    def first(self) -> int:
        """The place of the best answer, the earliest of equals."""
        return int(np.argmax(self.worth))

    @property
    def answer(self) -> str:
        """The best answer."""
        return self.answers[self.first]


def best_of(module: nn.Module, reader: Reader, rows: Sequence[Fields], judge: Check | None, count: int,
            sampling: Sampling, model: Judge | None = None) -> list[Best]:
    """`count` answers to the prompt of each row, judged by `judge` beside the row's right answer, or by a reward
    `model`.

    RequestError when both or neither are given, or for a greedy sampling, whose answers are all the same.
    """
    if (judge is None) == (model is None):
        raise RequestError("answers are judged by a reward that can be checked or by a reward model: give one of them")
    if count > 1 and sampling.temperature == 0:
        raise RequestError("at temperature 0 all answers are the same; set a temperature")
    prompts = [reader.prompt(row) for row in rows]
    made = generate(module, prompts, sampling, on_token=lambda row, token: token in reader.ends, copies=count)
    texts = [reader.codec.decode([t for t in one.tokens if t not in reader.ends]) for one in made]
    if judge is not None:
        right = [row.get("answer", row.get("target", "")) for row in rows for _ in range(count)]
        worth = score(judge, texts, right, judge.__name__)
    else:
        assert model is not None
        worth = model([np.append(prompts[n // count], one.tokens) for n, one in enumerate(made)])
    return [Best(row, texts[n * count:(n + 1) * count], worth[n * count:(n + 1) * count])
            for n, row in enumerate(rows)]


def accepted(made: Sequence[Best], least: float) -> list[dict[str, Any]]:
    """The best answers that are worth at least so much, each once, as rows for instruction tuning."""
    keys = ("prompt", "messages", "tools")
    return [{**{key: one.row[key] for key in keys if key in one.row},
             **({"prompt": one.row["input"] + "\n"} if "input" in one.row else {}), "completion": one.answer}
            for one in made if one.worth[one.first] >= least and one.answer.strip()]
