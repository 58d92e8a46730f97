"""Optimizers and schedules, and their state as flat named tensors.

AdamW: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101. Muon: Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/, with the update scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025,
https://arxiv.org/abs/2502.16982 section 2.2), so that one learning rate serves Muon's matrices and AdamW's rest.
"""
import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.run import Train
from meristem.nn.linear import Embedding

COEFFICIENTS = (3.4445, -4.7750, 2.0315)        # Jordan's quintic: fast, not exact; singular values end in 0.7..1.2
ROUNDS = 5
EPS = 1e-8


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix update is orthogonalised; matrices of one shape go through one batched product."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:                  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[(min(p.shape[-2:]), max(p.shape[-2:]))].append(p)
            for (rows, columns), params in alike.items():
                updates = []
                for p in params:
                    assert p.grad is not None
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    update = p.grad.lerp(state["momentum"], group["momentum"])               # Nesterov
                    update = update if p.shape[-2] == rows else update.mT
                    updates.append(update.reshape(-1, rows, columns).bfloat16())         # experts come stacked
                scale = 0.2 * math.sqrt(columns) * group["lr"]
                moves = orthogonal(torch.cat(updates)).float().split([len(u) for u in updates])
                for p, move in zip(params, moves, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_((move if p.shape[-2] == rows else move.mT).view_as(p), alpha=scale)


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

    Muon takes the matrices inside the network; AdamW takes embeddings, the head, norms and biases (and everything when
    `optimizer` is "adamw"). Vectors are not decayed.
    """

    def __init__(self, module: nn.Module, config: Train):
        named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("no parameter is trainable")
        tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, Embedding)}
        matrices, decayed, plain = {}, {}, {}
        for name, p in named.items():
            if p.ndim < 2:
                plain[name] = p
            elif config.optimizer == "adamw" or id(p) in tables or name.endswith("head.weight"):
                decayed[name] = p
            else:
                matrices[name] = p
        groups = [{"params": list(decayed.values()), "weight_decay": config.weight_decay},
                  {"params": list(plain.values()), "weight_decay": 0.0}]
        adam = torch.optim.AdamW([g for g in groups if g["params"]] or [{"params": list(plain.values())}],
                                 lr=config.lr, betas=config.betas, eps=EPS, fused=True) if decayed or plain else None
        muon = Muon(matrices.values(), config.lr, weight_decay=config.weight_decay) if matrices else None
        self.parts: list[torch.optim.Optimizer] = [o for o in (adam, muon) if o is not None]
        self.named, self.params = named, list(named.values())

    def step(self, lr: float) -> None:
        """Update every parameter at learning rate `lr` and drop the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        self.drop()

    def drop(self) -> None:
        """Forget the gradients (after a step, or instead of one that is skipped)."""
        for p in self.params:
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every moment as `parameter.moment`."""
        names = {id(p): n for n, p in self.named.items()}
        return {f"{names[id(p)]}:{key}": value for part in self.parts for p, moments in part.state.items()
                for key, value in moments.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; KeyError when a name is not a parameter of this module."""
        part_of = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for full, value in state.items():
            name, _, key = full.rpartition(":")
            p = self.named[name]
            part_of[id(p)].state[p][key] = value.clone()


def schedule(config: Train, step: int) -> float:
    """The learning rate of `step` (0-based) over the peak: linear warm-up, then cosine or stable-then-decay to `floor`.

    Cosine: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983. WSD: Hu et al. 2024, section 4,
    https://arxiv.org/abs/2404.06395, with a linear fall.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "wsd":
        start = config.steps - max(1, round(config.decay * config.steps))
        fall = max(0.0, (step + 1 - start) / (config.steps - start))
        return 1 - (1 - config.floor) * fall
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))
