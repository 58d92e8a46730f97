"""The optimizers of a run behind one `step`, averages of weights, schedules, and all state as flat named tensors.

`train.groups` says who is updated how; `train.adafactor` and `train.schedule_free` are files of their own.

AdamW: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101. Muon: Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/, with the update scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025,
https://arxiv.org/abs/2502.16982 section 2.2), so that one learning rate serves Muon's matrices and AdamW's rest.
"""
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.train import divided
from meristem.train.adafactor import Adafactor
from meristem.train.groups import rules
from meristem.train.schedule_free import ScheduleFree

COEFFICIENTS = (3.4445, -4.7750, 2.0315)        # Jordan's quintic: fast, not exact; singular values end in 0.7..1.2
ROUNDS = 5
EPS = 1e-8
Rows = list[dict[str, Any]]             # parameter groups as torch.optim takes them


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix update is orthogonalised; matrices of one shape go through one batched product.

    A convolution's kernels [O, I, k, k] are one matrix of O rows, as its product is (Jordan's own rule).
    """

    def __init__(self, params: Iterable[nn.Parameter] | Rows, lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:                  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[min(matrix(p)[-2:]), max(matrix(p)[-2:])].append(p)
            for (rows, columns), params in alike.items():
                updates = []
                for p in params:
                    assert p.grad is not None
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    update = divided.whole(p.grad.lerp(state["momentum"], group["momentum"]))        # Nesterov
                    update = update.reshape(matrix(p))
                    update = update if matrix(p)[-2] == rows else update.mT
                    updates.append(update.reshape(-1, rows, columns).bfloat16())         # experts come stacked
                scale = 0.2 * math.sqrt(columns) * group["lr"]
                moves = orthogonal(torch.cat(updates)).float().split([len(u) for u in updates])
                for p, move in zip(params, moves, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    move = (move if matrix(p)[-2] == rows else move.mT).reshape(p.shape)
                    p.sub_(divided.part(move, p), alpha=scale)         # each process makes all of it


def matrix(p: Tensor) -> tuple[int, ...]:
    """The shape in which a weight is one matrix, or several that are stacked."""
    kernels = p.ndim == 4 and p.shape[-1] == p.shape[-2]
    return (p.shape[0], p[0].numel()) if kernels else tuple(p.shape)


def orthogonal(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """About U V^T of each matrix U S V^T (rows <= columns), by five rounds of a quintic Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.float().norm(dim=(-2, -1), keepdim=True).to(matrices.dtype) * 1.02 + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Optimizer:
    """The optimizers of one run behind one `step`, with the learning rate set from outside each step.

    `train.groups.rules` says which parameter is updated how. `averaged` shows the weights that are to be judged.
    """

    def __init__(self, module: nn.Module, config: Train):
        if not 0 <= config.ema < 1:
            raise RequestError(f"train.ema is {config.ema}; it must be at least 0 (no average) and below 1")
        made = rules(module, config)
        self.named = {n: p for n, p in module.named_parameters() if n in made}
        self.params = list(self.named.values())
        self.parts: list[torch.optim.Optimizer] = []
        for kind in sorted({rule.kind for rule in made.values()}):
            groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
            for name, rule in made.items():
                if rule.kind == kind:
                    p = self.named[name]                       # torch updates divided and whole ones apart
                    groups[rule.lr, rule.decay, divided.divided(p)].append(p)
            rows = [{"params": params, "share": lr, "weight_decay": decay} for (lr, decay, _), params in groups.items()]
            self.parts.append(KINDS[kind](rows, config))
        self.show = config.weights == "average"
        self.ema = config.ema
        self.means: list[Tensor] = []                          # of `params`, while there is an ema
        self.updates = 0                                       # that the ema has seen

    def step(self, lr: float) -> None:
        """Update every parameter at learning rate `lr` and drop the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["share"]
            part.step()
        self.drop()
        if self.ema:
            self._average()

    def drop(self) -> None:
        """Forget the gradients (after a step, or instead of one that is skipped)."""
        for p in self.params:
            p.grad = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters hold the average that is validated and exported, if there is one and it is wanted.

        Afterwards they hold the very bits of before.
        """
        shown: dict[nn.Parameter, Tensor] = {}
        if self.show:
            for part in self.parts:
                if isinstance(part, ScheduleFree):
                    shown |= part.averages()
            shown |= dict(zip(self.params, self.means, strict=False))
        before = {p: p.detach().clone() for p in shown}
        try:
            put(shown)
            yield
        finally:
            put(before)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average by 1 - decay, where the decay rises as (1 + t) / (10 + t): the first weights are soon
        forgotten (as in TensorFlow's ExponentialMovingAverage)."""
        if not self.means:
            self.means = [p.clone() for p in self.params]
        self.updates += 1
        decay = min(self.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.means, [p.detach() for p in self.params], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Every moment as `parameter:moment`; of an average also `parameter:ema`, and its count as `:updates`."""
        names = {id(p): n for n, p in self.named.items()}
        moments = {f"{names[id(p)]}:{key}": value for part in self.parts for p, moments in part.state.items()
                   for key, value in moments.items()}
        if self.means:
            moments |= {f"{name}:ema": mean for name, mean in zip(self.named, self.means, strict=True)}
            moments[":updates"] = torch.tensor(self.updates)
        return moments

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; KeyError when a name is not a parameter of this module."""
        for part in self.parts:
            part.state.clear()                                 # going back to step 0 must leave nothing of later steps
        self.updates = 0
        part_of = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        means: dict[str, Tensor] = {}
        for full, value in state.items():
            name, _, key = full.rpartition(":")
            if not name:
                self.updates = int(value)
            elif key == "ema":
                means[name] = value.clone()
            else:
                p = self.named[name]
                part_of[id(p)].state[p][key] = value.clone()
        self.means = [means[name] for name in self.named] if means else []


def _adamw(rows: Rows, c: Train) -> torch.optim.Optimizer:
    return torch.optim.AdamW(rows, lr=c.lr, betas=c.betas, eps=EPS, fused=True)


KINDS: dict[str, Callable[[Rows, Train], torch.optim.Optimizer]] = {
    "adamw": _adamw, "muon": lambda rows, c: Muon(rows, c.lr), "adafactor": lambda rows, c: Adafactor(rows, c.lr),
    "schedule_free": lambda rows, c: ScheduleFree(rows, c.lr, c.betas)}


@torch.no_grad()
def put(values: dict[nn.Parameter, Tensor]) -> None:
    """Write each value into its parameter."""
    for p, value in values.items():
        p.copy_(value)


def schedule(config: Train, step: int) -> float:
    """The learning rate of `step` (0-based) over the peak: linear warm-up, then cosine or stable-then-decay to `floor`,
    and no fall at all for schedule_free.

    Cosine: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983. WSD: Hu et al. 2024, section 4,
    https://arxiv.org/abs/2404.06395, with a linear fall.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.optimizer == "schedule_free":
        return 1.0
    if config.schedule == "wsd":
        start = max(config.warmup, config.steps - max(1, round(config.decay * config.steps)))
        fall = max(0.0, (step + 1 - start) / max(1, config.steps - start))
        return 1 - (1 - config.floor) * fall
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))
