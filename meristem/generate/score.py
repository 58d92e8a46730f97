"""Log-probabilities of given tokens: the trainer's forward without a cache, many rows in one pass.

    logprobs(module, [ids_a, ids_b])      # for each row of n tokens, n - 1 values: log p(token i | tokens 0 .. i-1)

A pass costs memory for its features, [tokens, D]; the head, whose logits are 8 to 60 times as wide, is applied to a
slice of the places at a time, and never to padding.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.generate.base import evaluating, padded
from meristem.generate.encode import one_way

LONGEST = 16_384                        # tokens a forward pass, padding included
LOGITS = 1 << 24                        # numbers of a slice of logits: 64 MB in fp32


def logprobs(module: nn.Module, rows: Sequence[np.ndarray], batch_tokens: int = LONGEST) -> list[np.ndarray]:
    """Natural log-probabilities, float32 [n - 1] a row; rows of like length share a pass, order is kept.

    RequestError for an encoder.
    """
    one_way(module)
    out: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(rows)
    order = sorted((i for i in range(len(rows)) if len(rows[i]) > 1), key=lambda i: len(rows[i]))
    with evaluating(module):
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(rows[order[count]]) <= batch_tokens:
                count += 1
            some, order = order[:count], order[count:]
            for i, values in zip(some, _together(module, [rows[i] for i in some]), strict=True):
                out[i] = values
    return out


def _together(module: nn.Module, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One pass over rows of rising length, padded on the right, where a causal model looks last."""
    tokens, real = padded(rows)
    real = real[:, 1:]                                         # what is predicted, and the features that predict it
    features = module.features(tokens[:, :-1])[real]           # type: ignore[operator]
    chosen = of_targets(module, features, tokens[:, 1:][real])
    return [values.numpy() for values in chosen.split([len(row) - 1 for row in rows])]


def of_targets(module: nn.Module, features: Float[Tensor, "N D"], targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """log p of each target given the features before it, fp32; at most LOGITS logits exist at a time."""
    config: Any = module.config
    step = max(1, LOGITS // config.vocab)
    out = torch.empty(len(targets))
    for start in range(0, len(targets), step):
        logits = module.head(features[start:start + step]).float()             # type: ignore[operator]
        at = targets[start:start + step, None]                 # a bf16 log-sum-exp has 3 digits
        out[start:start + step] = logits.gather(-1, at)[:, 0] - logits.logsumexp(-1)
    return out
