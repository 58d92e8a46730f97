"""Adafactor: Adam's second moment from its row and column means, no first moment, steps relative to the weights.

Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, algorithms 4 (matrices) and 5 (vectors), with the decay rate
1 - t^-0.8 of section 7.2 and the clipping of section 6. An R x C matrix costs R + C numbers of state instead of 2 R C.

    Adafactor(parameters, lr=0.01)         # each step changes a matrix by up to 1 % of its root mean square

The schedule is the trainer's, so the paper's own min(lr, 1 / sqrt(t)) is not in here. torch.optim.Adafactor (2.13) has
one eps for two purposes: with the paper's 1e-30 rows of an embedding that were never seen become NaN, and with its
default of 1.2e-7 a gradient below 3e-4 no longer moves as a larger one does. Here it is added to the squares, as in the
paper.
"""
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = -0.8                            # beta2 of step t is 1 - t^DECAY
EPS = 1e-30                             # added to squared gradients
LEAST = 1e-3                            # weights smaller than this (root mean square) move as if they were this large
CLIP = 1.0                              # largest root mean square of an update before the learning rate


class Adafactor(torch.optim.Optimizer):
    """Adafactor without a first moment; the last two dimensions are factored, those before them are a stack."""

    def __init__(self, params: Iterable[nn.Parameter] | list[dict[str, Any]], lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:                  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                    if p.ndim > 1:
                        state["rows"], state["columns"] = torch.zeros_like(p[..., 0]), torch.zeros_like(p[..., 0, :])
                    else:
                        state["square"] = torch.zeros_like(p)
                state["step"] += 1
                update = scaled(p.grad, state, float(state["step"]) ** DECAY)
                size = max(LEAST, float(rms(p)))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update, alpha=group["lr"] * size / max(1.0, float(rms(update)) / CLIP))


def scaled(grad: Float[Tensor, "*S"], state: dict[str, Tensor], share: float) -> Float[Tensor, "*S"]:
    """The gradient over the root of its estimated square, after moving the estimate in `state` by `share`."""
    square = grad.square().add_(EPS)
    if "square" in state:
        return state["square"].lerp_(square, share).rsqrt() * grad
    rows, columns = state["rows"].lerp_(square.mean(-1), share), state["columns"].lerp_(square.mean(-2), share)
    rows = (rows / rows.mean(-1, keepdim=True)).rsqrt()        # divided first: 1e-30 times 1e-30 is 0 in fp32
    return rows[..., None] * columns.rsqrt()[..., None, :] * grad


def rms(x: Float[Tensor, "*S"]) -> Float[Tensor, ""]:
    """Root mean square."""
    return x.square().mean().sqrt()
