"""Learning from preferences without a reward model: DPO, IPO, KTO, ORPO and SimPO, one loss each over the same rows.

With s(y) = log p(y|x) of an answer, r(y) = s(y) - the same under the frozen model that training began with, n its
tokens, y+ the chosen and y- the rejected answer:

| loss | minimised | source |
| --- | --- | --- |
| dpo | -log sigmoid(beta (r(y+) - r(y-))) | Rafailov et al. 2023, https://arxiv.org/abs/2305.18290 equation 7 |
| ipo | ((r(y+)/n+ - r(y-)/n-) - 1 / 2 beta)^2 | Azar et al. 2023, https://arxiv.org/abs/2310.12036 equation 17 |
| kto | w(y) (1 - sigmoid(+-beta (r(y) - drift))) | Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306 section 4 |
| orpo | -s(y+)/n+ - beta log sigmoid(log odds ratio) | Hong et al. 2024, https://arxiv.org/abs/2403.07691 equation 6 |
| simpo | -log sigmoid(beta (s(y+)/n+ - s(y-)/n-) - gamma) | Meng et al. 2024, https://arxiv.org/abs/2405.14734 eq. 6 |

IPO's mean over tokens is that of its authors' later note and of trl. `smoothing` is the share of labels that are wrong
(conservative DPO: Mitchell 2023); `sft` adds so much of the chosen answer's loss per token. ORPO and SimPO need no
frozen model, KTO no pairs: data.examples=judged.

    meristem adapt MODEL dpo data.corpus=PAIRS.jsonl
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError, nearest
from meristem.core.types import Batch
from meristem.data.preferences import BAD, GOOD, OTHER
from meristem.objectives.base import Forward, Objective, twin
from meristem.objectives.next_token import log_probs

LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo")
REFERENCED = ("dpo", "ipo", "kto")      # losses that compare with the frozen model


class Preference(Objective):
    """Summed over pairs (KTO: over judged answers). Facts: `accuracy` and `margin`, how often and by how much the
    chosen answer's reward is the larger; `chosen` and `rejected`, these rewards (beta r, or beta s/n without r)."""

    def __init__(self, model: nn.Module, loss: str = "dpo", beta: float = 0.1,
                 gamma: float = 0.5, smoothing: float = 0.0, sft: float = 0.0, good: float = 1.0, bad: float = 1.0):
        super().__init__(model)
        if loss not in LOSSES:
            raise RequestError(f"no objective.loss={loss!r}; {nearest(loss, LOSSES)}")
        if beta <= 0 or not 0 <= smoothing < 0.5 or sft < 0:
            raise RequestError(f"objective.beta={beta} must be above 0, smoothing={smoothing} in [0, 0.5) and "
                               f"sft={sft} at least 0")
        self.loss, self.beta, self.gamma, self.smoothing, self.sft = loss, beta, gamma, smoothing, sft
        self.worth = {GOOD: good, BAD: bad}                    # KTO's lambda of desirable and undesirable answers
        if loss in REFERENCED:
            self.beside = (twin(model),)

    def prepare(self, batch: Batch) -> Batch:
        """As it is; RequestError for rows without judged answers."""
        if "labels" not in batch or "places" not in batch:
            raise RequestError("preference needs judged answers; set data.examples=preferences"
                               + (" or data.examples=judged" if self.loss == "kto" else ""))
        if (self.loss == "kto") != bool((batch["labels"] == OTHER).any()):
            raise RequestError("objective.loss=kto reads data.examples=judged, the others data.examples=preferences")
        return batch

    def train(self, mode: bool = True) -> "Preference":
        """The model itself never drops out: the frozen one beside it does not."""
        super().train(mode)
        self.model.eval()
        return self

    def weight(self, batch: Batch) -> Tensor:
        """Pairs, or judged answers."""
        labels = batch["labels"]
        return ((labels == GOOD) | (labels == BAD)).sum() if self.loss == "kto" else (labels == GOOD).sum()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens, segments and positions [B, T]."""
        return {"tokens": batch["tokens"][:, :-1], "segments": batch["segments"], "positions": batch["positions"]}

    def output(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """log p of each answer [B, S] under the model and the frozen one."""
        ours = self.answers(self.model, batch)
        return ours, self.answers(self.beside[0], batch).detach() if self.beside else None

    def flops(self, of: Forward) -> float:
        """Also the frozen model's forward pass."""
        return super().flops(of) + sum(of(network) for network in self.beside)

    def answers(self, model: nn.Module, batch: Batch) -> Float[Tensor, "B S"]:
        """The sum of log p of each answer's tokens; the vocabulary is asked at their places only."""
        return by_answer(token_log_probs(model, self.inputs(batch), batch), batch)

    def score(self, output: tuple[Tensor, Tensor | None], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probabilities [B, S] of both models -> (summed loss, summed facts)."""
        ours, theirs = output
        counts, labels = by_answer(torch.ones_like(batch["weight"]), batch).clamp(min=1), batch["labels"]
        if self.loss == "kto":
            assert theirs is not None
            return self.judged(ours - theirs, labels)
        good = labels == GOOD                                  # the rejected answer stands behind the chosen one
        sums = torch.stack([ours[good], ours[good.roll(1, 1)]])
        size = torch.stack([counts[good], counts[good.roll(1, 1)]])
        mean = sums / size
        if theirs is not None:
            ratio = sums - torch.stack([theirs[good], theirs[good.roll(1, 1)]])
        if self.loss == "dpo":
            reward = self.beta * ratio
            loss = self.binary(reward[0] - reward[1])
        elif self.loss == "ipo":
            reward = self.beta * ratio / size
            loss = ((ratio / size)[0] - (ratio / size)[1] - 1 / (2 * self.beta)) ** 2
        elif self.loss == "simpo":
            reward = self.beta * mean
            loss = self.binary(reward[0] - reward[1] - self.gamma)
        else:
            reward = self.beta * mean
            odds = mean - torch.log1p(-mean.double().exp()).to(mean.dtype)     # p near 1 has no log(1 - p) in fp32
            loss = -mean[0] - self.beta * F.logsigmoid(odds[0] - odds[1])
        loss = loss.sum() - self.sft * mean[0].sum()
        reward = reward.detach()
        margin = reward[0] - reward[1]
        return loss, {"accuracy": (margin > 0).float().sum(), "margin": margin.sum(), "chosen": reward[0].sum(),
                      "rejected": reward[1].sum()}

    def binary(self, margin: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
        """-log sigmoid of the margins, of which a share `smoothing` may be the wrong way round."""
        return -(1 - self.smoothing) * F.logsigmoid(margin) - self.smoothing * F.logsigmoid(-margin)

    def judged(self, ratio: Float[Tensor, "B S"], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """KTO: `drift`, the mean r of answers to other prompts, is where an answer is neither good nor bad."""
        drift = ratio[labels == OTHER].mean().clamp(min=0).detach()
        good, bad = ratio[labels == GOOD], ratio[labels == BAD]
        loss = self.worth[GOOD] * (1 - (self.beta * (good - drift)).sigmoid()).sum() \
            + self.worth[BAD] * (1 - (self.beta * (drift - bad)).sigmoid()).sum()
        count = len(good) + len(bad)
        right = (good > drift).float().sum() + (bad < drift).float().sum()
        apart = good.detach().mean().nan_to_num() - bad.detach().mean().nan_to_num()
        return loss, {"accuracy": right, "margin": self.beta * count * apart, "drift": count * drift}


def token_log_probs(model: nn.Module, inputs: dict[str, Tensor], batch: Batch,
                    temperature: float = 1.0) -> Float[Tensor, "B K"]:
    """log p of the token after each of a batch's `places` [B, K], of logits divided by a temperature."""
    places = batch["places"]
    logits = model.head(at_places(model.features(**inputs), places))           # type: ignore[operator]
    return log_probs(logits if temperature == 1.0 else logits.float() / temperature,
                     batch["tokens"].gather(1, places + 1))


def at_places(features: Float[Tensor, "B T D"], places: Tensor) -> Float[Tensor, "B K D"]:
    """The features of some places of each row."""
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))


def by_answer(values: Float[Tensor, "B K"], batch: Batch) -> Float[Tensor, "B S"]:
    """Sums of the values at an answer's places, where they count."""
    owner = batch["segments"].gather(1, batch["places"])
    empty = torch.zeros(batch["labels"].shape, device=values.device)
    return empty.scatter_add(1, owner.clamp(max=empty.shape[1] - 1), values * batch["weight"])
