"""What goes on inside a decoder: where each head looks, and what each layer would already say (the logit lens).

    looks(module, tokens)               # a [B, H, T, T] for each attention layer, rows sum to 1
    lens(module, tokens)                # logits [L, B, T, V]: the final norm and head on every layer's output

Induction heads: Olsson et al. 2022, https://arxiv.org/abs/2209.11895. The lens: nostalgebraist 2020, "interpreting GPT:
the logit lens"; final norm and head are the model's own.
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.nn.attention import Attention
from meristem.nn.norm import LayerNorm, RMSNorm


@torch.no_grad()
def looks(module: nn.Module, tokens: Int[Tensor, "B T"]) -> list[Float[Tensor, "B H T T"]]:
    """The attention of every layer that looks back; [] for a network without attention."""
    layers = [m for m in module.modules() if isinstance(m, Attention) and m.reach.causal]
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    with _watched(layers, seen):
        module.features(tokens)                                # type: ignore[operator]
    out = []
    for layer in layers:
        if id(layer) in seen:
            q, k = seen[id(layer)]
            k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
            score = torch.einsum("bthk,bshk->bhts", q.float(), k.float()) * layer.scale
            at = torch.arange(tokens.shape[1])
            out.append(score.masked_fill(~layer.reach.seen(at, at), float("-inf")).softmax(-1))
    return out


@torch.no_grad()
def lens(module: nn.Module, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "L B T V"]:
    """What each block's output says through the final norm and the head; the last is the model's own answer."""
    norms, outputs = list[nn.Module](), list[Tensor]()
    hooks = [m.register_forward_hook(lambda m, a, out: norms.append(m)) for m in module.modules()
             if isinstance(m, RMSNorm | LayerNorm)]
    hooks += [block.register_forward_hook(lambda m, a, out: outputs.append(out if isinstance(out, Tensor) else out[0]))
              for child in module.children() if isinstance(child, nn.ModuleList) for block in child]
    try:
        features = module.features(tokens)                     # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    last = norms[-1] if norms else nn.Identity()
    each = [last(x) for x in outputs[:-1]] + [features]
    return torch.stack([module.head(x).float() for x in each])                                 # type: ignore[operator]


def induction(attention: Float[Tensor, "B H T T"], period: int) -> Float[Tensor, "B H"]:
    """Prefix matching: of a sequence that repeats after `period`, how much each place of the second round looks at
    the place after its own earlier occurrence, a head."""
    length = attention.shape[-1]
    at = torch.arange(period, length)
    return attention[:, :, at, at - period + 1].mean(-1)


@contextmanager
def _watched(layers: list[Attention], seen: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keep the queries and keys that each layer makes inside the block."""
    def keep(layer: Attention) -> None:
        made = layer.project

        def project(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = made(*given)
            seen[id(layer)] = (q, k)
            return q, k, v
        layer.project = project                                # type: ignore[method-assign, assignment]
    for layer in layers:
        keep(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.project
