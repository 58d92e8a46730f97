"""GRPO and RLOO: an answer is good if it is better than the other answers to the same prompt; no value network.

GRPO (Shao et al. 2024, https://arxiv.org/abs/2402.03300 equation 3): A = (r - mean of the group) / its standard
deviation, clipped ratios token by token, and beta times the unbiased estimate of the KL to the model it began with.
RLOO (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740 section 3): A = r - mean of the others, the ratio of
whole answers, the KL taken off the reward. `loss` says how tokens are averaged:

| loss | the mean of | source |
| --- | --- | --- |
| dapo | all tokens of the batch alike | Yu et al. 2025, https://arxiv.org/abs/2503.14476 equation 8 |
| grpo | answers, each the mean of its tokens | the paper |
| dr_grpo | answers, each its sum over the longest that it may be | Liu et al. 2025, https://arxiv.org/abs/2503.20783 |
| rloo | answers | see above |

The KL term carries the ratio, so that its gradient is the KL's (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556, and
trl). `clip` is how far a ratio may fall and rise: more room to rise lets unlikely tokens grow (DAPO section 3.1);
`spread` false leaves A undivided (Dr. GRPO). A group whose answers are all worth the same teaches nothing: its A is 0.

    meristem adapt MODEL grpo data.corpus=QUESTIONS.jsonl objective.reward=last_number
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.errors import RequestError, nearest
from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.generate.rewards import Check
from meristem.objectives.rollouts import Rollouts

LOSSES = ("dapo", "grpo", "dr_grpo", "rloo")


class Grpo(Rollouts):
    """Facts, beside those of all rollouts: `ratio` (its mean), `clipped` (share of tokens), `flat` (share of groups
    that teach nothing)."""

    def __init__(self, model: nn.Module, reader: Reader | None = None, reward: str | Check = "exact",
                 group: int = 8, length: int = 64, temperature: float = 1.0,
                 beta: float = 0.0, clip: tuple[float, float] = (0.2, 0.2),
                 loss: str = "dapo", spread: bool = True,
                 epochs: int = 1, minibatches: int = 1):
        super().__init__(model, reader, reward, group, length, temperature, beta, epochs, minibatches)
        if loss not in LOSSES:
            raise RequestError(f"no objective.loss={loss!r}; {nearest(loss, LOSSES)}")
        if group < 2:
            raise RequestError("objective.group is at least 2: an answer is compared with others to the same prompt")
        self.low, self.high = clip
        self.loss, self.spread = loss, spread

    def experience(self, batch: Batch) -> Batch:
        """`advantage` [N]: of the answers of a group they sum to 0."""
        worth = batch["rewards"]
        if self.loss == "rloo" and self.beta:                  # the KL of an answer, estimated by its own tokens
            worth = worth - self.beta * ((batch["logp"] - batch["reference"]) * batch["weight"]).sum(1)
        return {"advantage": self.advantage(worth)}

    def advantage(self, worth: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """What an answer is worth beside those to the same prompt."""
        by_prompt = worth.view(-1, self.group)
        off = by_prompt - by_prompt.mean(1, keepdim=True)
        off = torch.where((by_prompt == by_prompt[:, :1]).all(1, keepdim=True), 0.0, off)      # not a rounding's worth
        if self.loss == "rloo":
            return (off * self.group / (self.group - 1)).flatten()
        return (off / (by_prompt.std(1, keepdim=True) + 1e-4) if self.spread else off).flatten()

    def learn(self, output: Batch, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped loss."""
        weight, log_ratio = batch["weight"], output["logp"] - batch["logp"]
        advantage = batch["advantage"][:, None]
        if self.loss == "rloo":                                # an answer is one action
            log_ratio, weight = (log_ratio * weight).sum(1, keepdim=True), torch.ones_like(advantage)
        ratio = log_ratio.exp()
        each = -torch.min(ratio * advantage, ratio.clamp(1 - self.low, 1 + self.high) * advantage)
        if self.beta and self.loss != "rloo":
            apart = batch["reference"] - output["logp"]
            each = each + self.beta * ratio * (apart.exp() - apart - 1)        # Schulman's k3: unbiased, never negative
        total, tokens = self.weight(batch), weight.sum().clamp(min=1)
        if self.loss == "grpo":
            each = each / weight.sum(1, keepdim=True).clamp(min=1)
        elif self.loss == "dr_grpo":
            each = each / self.length
        beyond = ((ratio < 1 - self.low) & (advantage < 0)) | ((ratio > 1 + self.high) & (advantage > 0))
        flat = (batch["advantage"] == 0).float().mean()
        return (each * weight).sum(), {
            "ratio": (ratio.detach() * weight).sum() / tokens * total,
            "clipped": (beyond * weight).sum() / tokens * total, "flat": flat * total}

    def weight(self, batch: Batch) -> Tensor:
        """Tokens (dapo), or answers."""
        if self.loss == "dapo" or not self.training:
            return batch["weight"].sum()
        return torch.tensor(float(len(batch["weight"])))
