"""wav2vec 2.0: tell the codeword of a hidden stretch of sound from those of other hidden stretches.

Baevski et al. 2020, https://arxiv.org/abs/2006.11477, section 3: 6.5 % of the places begin a hidden stretch of ten;
equation 3, cosines over `temperature` against `others` codewords of the same sound; equation 4, codewords should be
used evenly (times `even`). The Gumbel temperature of the codebooks falls from 2 to 0.5 (appendix B).

    meristem pretrain wav2vec2 data.corpus=SOUNDS.jsonl
"""
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.base import Objective

COOLEST = 0.5


class SpeechContrast(Objective):
    """Summed over hidden places; facts: `accuracy`, how often the right codeword scores highest, and `used` words."""

    def __init__(self, model: nn.Module, begin: float = 0.065, stretch: int = 10, others: int = 20,
                 temperature: float = 0.1, even: float = 0.1, cooling: float = 0.999):
        super().__init__(model)
        if vars(model.config).get("head") != "contrast":
            raise RequestError("objective.name=speech_contrast needs codebooks; set model.name=wav2vec2, "
                               "model.head=contrast")
        self.begin, self.stretch, self.others = begin, stretch, others
        self.temperature, self.even, self.cooling = temperature, even, cooling
        self.register_buffer("warmth", torch.tensor(2.0))      # of the codebooks; saved, so that a run goes on with it

    def prepare(self, batch: Batch) -> Batch:
        """hidden bool [B, T], negatives int64 [B, T, others] (places of the same sound), weight [B, T]."""
        if "sound" not in batch:
            raise RequestError("speech_contrast needs sounds; set data.examples=sounds")
        quantiser: Any = self.model.quantiser
        quantiser.temperature = float(self.warmth)             # type: ignore[arg-type]
        hidden = stretches(self.model.config, batch, self.begin, self.stretch)
        return {**batch, "hidden": hidden, "negatives": elsewhere(hidden, self.others), "weight": hidden.float()}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, N], heard [B], hidden [B, T]."""
        return {"source": batch["sound"], "heard": batch["heard"], "hidden": batch["hidden"]}

    def score(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors of places and of codewords, and the shares of all codewords -> (summed loss, sums)."""
        places, words, shares = (x.float() for x in output)
        hidden = batch["hidden"]
        rows = torch.arange(len(words), device=words.device)[:, None, None]
        wrong = words[rows, batch["negatives"]]                                     # [B, T, others, P]
        near = F.cosine_similarity(places[:, :, None], torch.cat([words[:, :, None], wrong], 2), dim=-1)
        logits = near / self.temperature
        same = (wrong == words[:, :, None]).all(-1)                                 # a negative that is the right one
        logits = torch.cat([logits[..., :1], logits[..., 1:].masked_fill(same, float("-inf"))], -1)[hidden]
        nll = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), reduction="sum")
        mean = shares[hidden].mean(0)                                               # [books, codes]
        used = torch.exp(-torch.xlogy(mean, mean).sum(-1)).sum()
        count = hidden.sum()
        uneven = (mean.numel() - used) / mean.numel() * count
        return nll + self.even * uneven, {"accuracy": (logits.argmax(-1) == 0).float().sum(), "used": used * count}

    def after_step(self, step: int) -> None:
        """The codebooks cool."""
        super().after_step(step)
        self.warmth.fill_(max(COOLEST, 2.0 * self.cooling**step))      # type: ignore[operator]


def stretches(config: Any, batch: Batch, begin: float, stretch: int) -> Bool[Tensor, "B T"]:
    """Which places are hidden: about begin * T stretches a sound, at least one, none behind its end."""
    length = config.frames(batch["sound"].shape[1])
    real = config.frames(batch["heard"]).clamp(min=2)
    count = (begin * real).long().clamp(min=1)                                      # [B]
    draw = torch.rand(len(real), length, device=real.device)
    at = torch.arange(length, device=real.device)
    last = (real - stretch).clamp(min=0)
    draw = draw.masked_fill(at > last[:, None], 2.0)
    starts = draw.argsort(1).argsort(1) < count[:, None]
    starts = starts & (at <= last[:, None])
    hidden = torch.zeros_like(starts)
    for offset in range(min(stretch, length)):
        hidden[:, offset:] |= starts[:, :length - offset]
    return hidden & (at < real[:, None])


def elsewhere(hidden: Bool[Tensor, "B T"], count: int) -> Int[Tensor, "B T K"]:
    """For each hidden place `count` other hidden places of its row, evenly drawn; 0 for places that are shown."""
    many = hidden.sum(1)                                                            # [B]
    order = (~hidden).long().argsort(dim=1, stable=True)                                # hidden places first
    rank = hidden.long().cumsum(1) - 1
    draw = (torch.rand(*hidden.shape, count, device=hidden.device) * (many[:, None, None] - 1)).long()
    draw = draw + (draw >= rank[..., None])
    rows = torch.arange(len(hidden), device=hidden.device)[:, None, None]
    return torch.where(hidden[..., None], order[rows, draw.clamp(min=0, max=hidden.shape[1] - 1)], 0)
