"""A reward model: which of two answers people prefer, as a number for each answer.

Bradley & Terry 1952; Stiennon et al. 2020, https://arxiv.org/abs/2009.01325 section 3.4: with r(y) a linear function of
the network's last features at an answer's last token, minimise

    -log sigmoid(r(chosen) - r(rejected)) + centre (r(chosen) + r(rejected))^2

The second term keeps rewards around 0 (Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244 section 2). The head
lies in RUN/head; `meristem.objectives.reward.judge("RUN")` gives the rewards of rows of tokens.

    meristem adapt MODEL reward data.corpus=PAIRS.jsonl --out runs/reward
"""
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.files import verify
from meristem.core.types import Batch
from meristem.data.preferences import BAD, GOOD
from meristem.generate.base import evaluating, padded
from meristem.hub import hf
from meristem.objectives.base import Objective
from meristem.objectives.preference import at_places

HEAD, WEIGHTS = "head", "head.safetensors"                     # in the run folder
ROWS = 32                               # answers judged in one pass


class Reward(Objective):
    """Summed over pairs; facts: `accuracy`, how often the chosen answer's reward is the larger, and the `margin`."""

    def __init__(self, model: nn.Module, centre: float = 0.0):
        super().__init__(model)
        self.centre = centre
        self.value = head_of(model)

    def prepare(self, batch: Batch) -> Batch:
        """As it is; RequestError for rows without pairs."""
        if "labels" not in batch or "places" not in batch:
            raise RequestError("reward needs pairs of answers; set data.examples=preferences")
        return batch

    def weight(self, batch: Batch) -> Tensor:
        """Pairs."""
        return (batch["labels"] == GOOD).sum()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens, segments and positions [B, T]."""
        return {"tokens": batch["tokens"][:, :-1], "segments": batch["segments"], "positions": batch["positions"]}

    def output(self, batch: Batch) -> Float[Tensor, "B S"]:
        """The reward of each answer, read at its last token."""
        owner = batch["segments"].gather(1, batch["places"])
        place = torch.where(batch["weight"] > 0, batch["places"] + 1, 0)
        last = torch.zeros_like(batch["labels"]).scatter_reduce(1, owner.clamp(max=batch["labels"].shape[1] - 1), place,
                                                                "amax")
        features = self.model.features(**self.inputs(batch))   # type: ignore[operator]
        return self.value(at_places(features, last).float())[..., 0]

    def score(self, output: Float[Tensor, "B S"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards -> (summed loss, summed facts)."""
        good, bad = (batch["labels"] == label for label in (GOOD, BAD))
        chosen, rejected = output[good], output[bad]
        loss = -F.logsigmoid(chosen - rejected) + self.centre * (chosen + rejected) ** 2
        margin = (chosen - rejected).detach()
        return loss.sum(), {"accuracy": (margin > 0).float().sum(), "margin": margin.sum()}

    def kept(self) -> dict[str, Tensor]:
        """The head."""
        return {"value.weight": self.value.weight.detach()}


def head_of(model: nn.Module) -> nn.Linear:
    """A linear function of a model's features that is 0 everywhere at first."""
    config = vars(model.config)
    if "dim" not in config:
        raise RequestError("rewards and values are read off a decoder's features; take a decoder")
    made = nn.Linear(config["dim"], 1, bias=False)
    nn.init.zeros_(made.weight)
    return made


def judge(folder: str | Path) -> Callable[[Sequence[np.ndarray]], list[float]]:
    """What gives each row of tokens (a prompt and its answer) the reward of the model in a run folder.

    RequestError where the folder holds no reward model.
    """
    loaded, place = hf.load(folder), Path(folder) / HEAD
    if not (place / WEIGHTS).is_file():
        raise RequestError(f"{folder} holds no reward model (no {HEAD}/{WEIGHTS}); train one: meristem adapt MODEL "
                           "reward data.corpus=PAIRS.jsonl")
    if problem := verify(place):
        raise RequestError(f"{place}: {problem}; train it again")
    weight = load_file(place / WEIGHTS)["value.weight"]

    def rewards(rows: Sequence[np.ndarray]) -> list[float]:
        out: list[float] = []
        with evaluating(loaded.module):
            for start in range(0, len(rows), ROWS):
                tokens, real = padded(rows[start:start + ROWS])
                features = loaded.module.features(tokens)      # type: ignore[operator]
                last = at_places(features, real.sum(1, keepdim=True) - 1).float()
                out += (last @ weight.T).flatten().tolist()
        return out
    return rewards
