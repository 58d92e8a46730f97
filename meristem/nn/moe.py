"""Mixture of experts: a router sends each token to `top_k` of many feed-forward networks (experts); none is dropped.

Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; Switch (Fedus et al. 2021), https://arxiv.org/abs/2101.03961;
Mixtral (Jiang et al. 2024), https://arxiv.org/abs/2401.04088 section 2.1; dropless: Gale et al. 2022,
https://arxiv.org/abs/2211.15841.

Tokens are sorted by expert, and each expert multiplies its own rows: three grouped products a layer, whatever the
number of experts and however uneven the load (no capacity, no padding). Two ways keep the load even:

- the balance loss, E sum_e f_e P_e (Switch, equations 4 to 6), where f_e is the share of choices that fell on expert e,
  P_e the mean probability that the router gave it; 1 at an even load, up to E / top_k when all tokens choose the same.
  It is a mean over the tokens of one forward pass, all of them (padding too). `Objective.forward` adds
  `balance_loss` * it * (targets of the micro-batch) for every layer, so that after the trainer's division by the step's
  targets the objective is loss + balance_loss * sum over layers of the mean over micro-batches, weighted by targets.
  The mean of products of means is not the product of means over the step: halving the micro-batch raises it by at most
  (E - 1) / tokens of it, for independent tokens (3e-3 for 8 experts and 2,048 tokens);
- loss-free balancing (Wang et al. 2024, https://arxiv.org/abs/2408.15664, algorithm 1): a bias for each expert that
  takes part in the choice only, never in the weights, and moves by `balance_rate` after each step: up where the load of
  the whole step was below the mean, down where above. No gradient is disturbed, and micro-batches don't matter.
"""
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.parallel import mean
from meristem.nn.linear import Linear
from meristem.nn.mlp import ACTIVATIONS, GatedMLP


class Experts(nn.Module):
    """`experts` gated feed-forward networks as three stacked matrices; row n goes to the expert that owns its range."""

    def __init__(self, dim: int, hidden: int, experts: int, activation: str = "silu"):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(experts, hidden, dim))
        self.up = nn.Parameter(torch.empty(experts, hidden, dim))
        self.down = nn.Parameter(torch.empty(experts, dim, hidden))
        self.activation = activation
        for matrices in (self.gate, self.up, self.down):
            nn.init.normal_(matrices, std=0.02)

    def forward(self, x: Float[Tensor, "N D"], ends: Int[Tensor, "E"]) -> Float[Tensor, "N D"]:
        """Rows sorted by expert; expert e owns rows ends[e - 1] to ends[e]."""
        return self.through(x, ends, self.gate, self.up, self.down)

    def through(self, x: Float[Tensor, "N D"], ends: Int[Tensor, "e"], gate: Float[Tensor, "e H D"],
                up: Float[Tensor, "e H D"], down: Float[Tensor, "e D H"]) -> Float[Tensor, "N D"]:
        """The same with given matrices: those of the experts that are here (train/experts.py)."""
        inner = ACTIVATIONS[self.activation](grouped(x, gate, ends)) * grouped(x, up, ends)
        return grouped(inner, down, ends)


class MoE(nn.Module):
    """sum over the chosen experts of weight_e * expert_e(x), plus a shared expert where `shared` (its width) is set.

    `score` makes probabilities of the router's logits: softmax over all experts, or a sigmoid each. The weights are the
    chosen ones' probabilities, divided by their sum if `normalise` (a softmax over the chosen logits is just that).
    With `scale_input` they multiply what goes into an expert instead of what comes out (Llama 4).
    """

    bias: Tensor | None

    def __init__(self, dim: int, hidden: int, experts: int, top_k: int, *, score: str = "softmax",
                 normalise: bool = True, scale_input: bool = False, shared: int = 0, balance_loss: float = 0.0,
                 balance_rate: float = 0.0):
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k ({top_k}) must be 1 to the number of experts ({experts})")
        self.top_k, self.score, self.normalise, self.scale_input = top_k, score, normalise, scale_input
        self.balance_loss, self.balance_rate = balance_loss, balance_rate
        self.router = Linear(dim, experts, bias=False)
        self.experts = Experts(dim, hidden, experts)
        self.shared = GatedMLP(dim, shared) if shared else None
        self.register_buffer("bias", torch.zeros(experts) if balance_rate else None)
        self.balance: Tensor | None = None                     # of the last training forward, until `settle` takes it
        self.load: Tensor | None = None                        # [E]: its choices; then those of the step so far
        self.counted: Tensor | None = None

    def route(self, x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N k"], Int[Tensor, "N k"]]:
        """Probabilities, and weights and numbers of the chosen experts; in fp32, so that rounding picks no expert."""
        logits = self.router(x.float())
        probs = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        chosen = (probs if self.bias is None else probs + self.bias).topk(self.top_k, -1).indices
        weight = probs.gather(-1, chosen)
        return probs, weight / weight.sum(-1, keepdim=True) if self.normalise else weight, chosen

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D], every token through all of its chosen experts."""
        rows = x.flatten(0, -2)
        probs, weight, chosen = self.route(rows)
        flat, weight = chosen.flatten(), weight.to(x.dtype)
        load = torch.zeros_like(probs[0], dtype=torch.int32)
        load = load.scatter_add(0, flat, torch.ones_like(flat, dtype=torch.int32))
        order = flat.argsort(stable=True)                      # choices by expert, each expert's in the tokens' order
        mine = rows[order // self.top_k]
        if self.scale_input:
            mine = mine * weight.flatten()[order, None]
        made = self.experts(mine, load.cumsum(0, dtype=torch.int32))
        made = made[order.argsort()].unflatten(0, (-1, self.top_k))
        y = (made if self.scale_input else made * weight[..., None]).sum(1).view_as(x)
        if self.training:
            self.load, self.balance = load, self._balance(probs, load / len(flat))
        return y if self.shared is None else y + self.shared(x)

    def _balance(self, probs: Float[Tensor, "N E"], share: Float[Tensor, "E"]) -> Float[Tensor, ""]:
        """E sum_e f_e P_e; independent sigmoids are divided by their sum first (DeepSeek-V3, equation 18)."""
        probs = probs if self.balance_loss else probs.detach()
        probs = probs if self.score == "softmax" else probs / probs.sum(-1, keepdim=True)
        return len(share) * (mean(share) * mean(probs.mean(0))).sum()


def layers(module: nn.Module) -> list[MoE]:
    """The mixture-of-experts layers of a model."""
    return [layer for layer in module.modules() if isinstance(layer, MoE)]


def settle(routed: Iterable[MoE]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What the last training forward owes: the layers' balance losses times their coefficients, summed, and the mean
    balance (1 is even). Their graph is let go, and loads are added up for `adjust`."""
    owed, balance = [], []
    for layer in routed:
        assert layer.balance is not None and layer.load is not None, "a layer that took no part in the forward"
        owed.append(layer.balance_loss * layer.balance)
        balance.append(layer.balance.detach())
        layer.counted = layer.load if layer.counted is None else layer.counted + layer.load
        layer.balance = layer.load = None
    return torch.stack(owed).sum(), torch.stack(balance).mean()


@torch.no_grad()
def adjust(routed: Iterable[MoE], move: bool = True) -> None:
    """After a step: move the biases by the loads of all its micro-batches, and count anew; `move` False: only that."""
    for layer in routed:
        if move and layer.bias is not None and layer.counted is not None:
            load = mean(layer.counted.float())                 # of all processes: only its sign about the mean counts
            layer.bias += layer.balance_rate * (load.mean() - load).sign()
        layer.counted = None


def grouped(x: Float[Tensor, "N I"], weight: Float[Tensor, "E O I"], ends: Int[Tensor, "E"]) -> Float[Tensor, "N O"]:
    """Rows ends[e - 1] to ends[e] of x times the e-th matrix, transposed, in x's type: one call for all experts."""
    weight = weight.to(x.dtype)
    align, out = 16 // x.element_size(), weight.shape[1]       # torch's kernel takes rows of whole 16 bytes only
    if inner := -x.shape[1] % align:
        x, weight = F.pad(x, (0, inner)), F.pad(weight, (0, inner))
    if outer := -out % align:
        weight = F.pad(weight, (0, 0, 0, outer))
    y = _grouped(x, weight, ends) if torch.compiler.is_compiling() else F.grouped_mm(x, weight.mT, offs=ends)
    return y[:, :out] if outer else y


# The same for torch.compile, whose shape function of grouped_mm knows bf16 only, though the CPU kernel takes fp32 too.
# An operator written in Python is dearer a call, so eager code does without.
@torch.library.custom_op("meristem::grouped", mutates_args=())
def _grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(x.contiguous(), weight.mT, offs=ends)


@torch.library.custom_op("meristem::grouped_outer", mutates_args=())
def _outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """[N, O] and [N, I] -> [E, O, I]: the sum of outer products over each expert's rows."""
    return F.grouped_mm(left.contiguous().mT, right.contiguous(), offs=ends)


@_grouped.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@_outer.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty(ends.shape[0], left.shape[1], right.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, ends = ctx.saved_tensors
    return (_grouped(grad, weight.mT, ends) if ctx.needs_input_grad[0] else None,
            _outer(grad, x, ends) if ctx.needs_input_grad[1] else None, None)


_grouped.register_autograd(_backward, setup_context=_keep)
