"""Schedule-free AdamW: an average of the weights takes the place of a falling learning rate.

Defazio et al. 2024, "The Road Less Scheduled", https://arxiv.org/abs/2405.15682, section 2 and algorithm 1:

    y = (1 - beta1) z + beta1 x        gradients are taken here: what the model's parameters are while training
    z -= lr (g / (sqrt(v) + eps) + decay y)
    x += lr^2 / (sum of lr^2 so far) (z - x)          what is validated and exported

y and z are kept; x follows from them. `averages` gives x for the time of an evaluation, `train.optim` puts y back from
a copy, so that looking never changes a bit of the run. There is no horizon: any step is as good a last one.
"""
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-8


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW; `state` holds z, v (`square`), and of each parameter its steps and the sum of lr^2."""

    def __init__(self, params: Iterable[nn.Parameter] | list[dict[str, Any]], lr: float,
                 betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:                  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["z"], state["square"] = p.clone(), torch.zeros_like(p)
                    state["step"], state["weight"] = torch.zeros(()), torch.zeros((), dtype=torch.float64)
                state["step"] += 1
                state["weight"] += lr * lr
                share = lr * lr / float(state["weight"]) if lr else 0.0
                state["square"].lerp_(p.grad.square(), 1 - beta2)
                unbiased = 1 - beta2 ** float(state["step"])
                move = p.grad / (state["square"] / unbiased).sqrt_().add_(EPS)
                move.add_(p, alpha=group["weight_decay"])
                p.lerp_(state["z"], share).add_(move, alpha=lr * (beta1 * (1 - share) - 1))
                state["z"].sub_(move, alpha=lr)

    @torch.no_grad()
    def averages(self) -> dict[nn.Parameter, Tensor]:
        """x of every parameter that was ever updated: y + (y - z) (1 - beta1) / beta1."""
        return {p: p.lerp(self.state[p]["z"], 1 - 1 / group["betas"][0])
                for group in self.param_groups for p in group["params"] if self.state[p]}
