"""Several LoRA adapters of one base as one: weighted sums, TIES and DARE.

    updates = combine([first, second], [0.7, 0.3], "ties", density=0.2)
    put(module, updates)                                       # the sum as one LoRA adapter around the base's layers

`linear`: the weighted sum of the updates, exact (A and B one below the other, so ranks add up). `ties`: of each update
only the `density` largest numbers are kept, the sign with the larger sum is elected at every place, and what agrees
with it is averaged (Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 3). `dare`: numbers are dropped at
random and the rest divided by `density`, then summed (Yu et al. 2023, https://arxiv.org/abs/2311.03099, section 3.2);
`dare_ties` elects signs after that. The last three work on whole updates; their result is written as A and B of `rank`
by its largest singular values, at most what the update has.
"""
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.adapt import base, lora
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of

Halves = dict[str, tuple[Tensor, Tensor]]                      # layer -> A [r, I], B [O, r] of an update B A


def combine(adapters: Sequence[nn.Module], weights: Sequence[float], kind: str = "linear", *, density: float = 0.2,
            rank: int = 0, seed: int = 0) -> Halves:
    """A and B of the sum for every layer that one of the adapted modules adapts; `rank` 0 = the sum of their ranks.

    RequestError: no adapter, a weight each is missing, DoRA, an unknown kind, a density outside (0, 1].
    """
    if not adapters or len(adapters) != len(weights):
        raise RequestError(f"{len(adapters)} adapters and {len(weights)} weights; give one weight for each adapter")
    if kind not in ("linear", *KINDS):
        raise RequestError(f"no combination {kind!r}; {nearest(kind, ('linear', *KINDS))}")
    if not 0 < density <= 1:
        raise RequestError(f"density is {density}; it must be above 0 and at most 1")
    found = [base.layers(module, lora.LoRA) for module in adapters]
    if not all(found) or any(layer.magnitude is not None for layers in found for layer in layers.values()):
        raise RequestError("only plain LoRA adapters can be added up: DoRA's rows are not a sum, and a base has none")
    made: Halves = {}
    with torch.no_grad():
        for name in dict.fromkeys(name for layers in found for name in layers):
            some = [(layers[name], weight) for layers, weight in zip(found, weights, strict=True) if name in layers]
            if kind == "linear":
                made[name] = (torch.cat([layer.a * weight * layer.scale for layer, weight in some]),
                              torch.cat([layer.b for layer, _ in some], 1))
                continue
            generator = torch.Generator().manual_seed(seed_of(seed, "combine", name))
            updates = torch.stack([layer.update() for layer, _ in some])
            whole = KINDS[kind](updates, torch.tensor([weight for _, weight in some]), density, generator)
            made[name] = _halves(whole, rank or sum(layer.rank for layer, _ in some))
    return made


def put(module: nn.Module, updates: Halves) -> nn.Module:
    """Wrap the plain `module` with these updates as one LoRA adapter, in place: scale 1, ranks as they come."""
    base.free(module, updates)
    lora.wrap(module, {name: (len(a), float(len(a))) for name, (a, _) in updates.items()}, 0)
    with torch.no_grad():
        for name, layer in base.layers(module, lora.LoRA).items():
            layer.a.copy_(updates[name][0])
            layer.b.copy_(updates[name][1])
    return module


def trimmed(updates: Float[Tensor, "N O I"], density: float) -> Float[Tensor, "N O I"]:
    """Each update's `density` largest numbers, the others 0."""
    flat = updates.flatten(1)
    kept = flat.abs().topk(max(1, int(density * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).view_as(updates)


def dropped(updates: Float[Tensor, "N O I"], density: float, generator: torch.Generator) -> Float[Tensor, "N O I"]:
    """Each number kept with probability `density` and divided by it: the same on the average."""
    return updates * (torch.rand(updates.shape, generator=generator) < density) / density


def elected(updates: Float[Tensor, "N O I"], weights: Float[Tensor, "N"]) -> Float[Tensor, "O I"]:
    """The weighted sum of the numbers whose sign is that of the place's sum, over how many they are."""
    sign = torch.where(updates.sum(0) >= 0, 1.0, -1.0)
    agrees = updates.sign() == sign
    return (updates * weights[:, None, None] * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _ties(updates: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return elected(trimmed(updates, density), weights)


def _dare(updates: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return (dropped(updates, density, generator) * weights[:, None, None]).sum(0)


def _dare_ties(updates: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return elected(dropped(updates, density, generator), weights)


def _halves(whole: Float[Tensor, "O I"], rank: int) -> tuple[Tensor, Tensor]:
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


KINDS: Mapping[str, Callable[[Tensor, Tensor, float, torch.Generator], Tensor]] = {
    "ties": _ties, "dare": _dare, "dare_ties": _dare_ties}
