"""PPO for language models: a value head, generalised advantages, a KL penalty token by token.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347 equations 7 and 9; generalised advantage estimation: Schulman et
al. 2015, https://arxiv.org/abs/1506.02438 equation 16; the KL to the first model as a reward of each token: Ouyang et
al. 2022, https://arxiv.org/abs/2203.02155 equation 2. The value head reads the policy's own features.

    meristem adapt MODEL ppo data.corpus=QUESTIONS.jsonl objective.reward=runs/reward

An answer y_1 .. y_n earns -beta (log p(y_t) - log p_0(y_t)) at each token and the reward at its last one. With values v
and delta_t = r_t + gamma v_{t+1} - v_t, A_t = delta_t + gamma lam A_{t+1}; the value learns A_t + v_t, clipped like the
ratio. A is made mean 0 and variance 1 over a set of answers.
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.generate.rewards import Check
from meristem.objectives.reward import head_of
from meristem.objectives.rollouts import Rollouts, whitened

GAMMA = 1.0                             # a later reward counts as much: answers are short (InstructGPT, appendix C.4)


class Ppo(Rollouts):
    """Facts, beside those of all rollouts: `ratio` (its mean), `clipped` (share of tokens), `value_loss`."""

    def __init__(self, model: nn.Module, reader: Reader | None = None, reward: str | Check = "exact",
                 length: int = 64, temperature: float = 1.0, beta: float = 0.05,
                 clip: float = 0.2, lam: float = 0.95, value: float = 0.1, epochs: int = 2, minibatches: int = 1):
        super().__init__(model, reader, reward, 1, length, temperature, beta, epochs, minibatches)
        self.clip, self.lam, self.share = clip, lam, value
        self.value = head_of(model)

    def read(self, features: Float[Tensor, "N L D"], logits: Float[Tensor, "N L V"], batch: Batch) -> Batch:
        """Also the `values` of each place, before its token is known."""
        return {**super().read(features, logits, batch), "values": self.value(features.float())[..., 0]}

    def experience(self, batch: Batch) -> Batch:
        """`advantage` and `returns` [N, L]."""
        weight = batch["weight"]
        earned = torch.zeros_like(weight)
        if self.beta:
            earned = -self.beta * (batch["logp"] - batch["reference"]) * weight
        last = weight.sum(1).long() - 1
        earned[torch.arange(len(last)), last] += batch["rewards"]
        advantage = advantages(earned, batch["values"] * weight, weight, self.lam)
        return {"advantage": whitened(advantage, weight), "returns": (advantage + batch["values"]) * weight}

    def learn(self, output: Batch, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped losses of policy and value."""
        weight, advantage = batch["weight"], batch["advantage"]
        ratio = (output["logp"] - batch["logp"]).exp()
        policy = -torch.min(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        near = batch["values"] + (output["values"] - batch["values"]).clamp(-self.clip, self.clip)
        value = 0.5 * torch.max((output["values"] - batch["returns"]) ** 2, (near - batch["returns"]) ** 2)
        beyond = ((ratio < 1 - self.clip) & (advantage < 0)) | ((ratio > 1 + self.clip) & (advantage > 0))
        return ((policy + self.share * value) * weight).sum(), {
            "ratio": (ratio.detach() * weight).sum(), "clipped": (beyond * weight).sum(),
            "value_loss": (value.detach() * weight).sum()}

    def kept(self) -> dict[str, Tensor]:
        """The value head."""
        return {"value.weight": self.value.weight.detach()}


def advantages(earned: Float[Tensor, "N L"], values: Float[Tensor, "N L"], weight: Float[Tensor, "N L"],
               lam: float, gamma: float = GAMMA) -> Float[Tensor, "N L"]:
    """Generalised advantages of each place; nothing is earned, and nothing expected, after an answer's end."""
    out = torch.zeros_like(earned)
    after = coming = torch.zeros(len(earned), device=earned.device)
    for at in reversed(range(earned.shape[1])):
        here = weight[:, at]
        delta = earned[:, at] + gamma * coming - values[:, at]
        after = (delta + gamma * lam * after) * here
        coming = values[:, at] * here
        out[:, at] = after
    return out
