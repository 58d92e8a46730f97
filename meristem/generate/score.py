"""Log-probabilities of given tokens: the trainer's forward without a cache, many rows in one pass.

    logprobs(module, [ids_a, ids_b])      # for each row of n tokens, n - 1 values: log p(token i | tokens 0 .. i-1)
"""
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

LONGEST = 16_384                        # tokens a forward pass, padding included


@torch.no_grad()
def logprobs(module: nn.Module, rows: Sequence[np.ndarray], batch_tokens: int = LONGEST) -> list[np.ndarray]:
    """Natural log-probabilities, float32 [n - 1] a row; rows of like length share a pass, order is kept."""
    was_training = module.training
    module.eval()
    out: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(rows)
    order = sorted((i for i in range(len(rows)) if len(rows[i]) > 1), key=lambda i: len(rows[i]))
    try:
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(rows[order[count]]) <= batch_tokens:
                count += 1
            some, order = order[:count], order[count:]
            for i, values in zip(some, _together(module, [rows[i] for i in some]), strict=True):
                out[i] = values
    finally:
        module.train(was_training)
    return out


def _together(module: nn.Module, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One pass over rows of rising length, padded on the right, where a causal model looks last."""
    tokens = torch.zeros(len(rows), len(rows[-1]), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.as_tensor(np.asarray(row), dtype=torch.long)
    logits = module(tokens[:, :-1]).float()                    # a bf16 log-sum-exp has 3 digits
    chosen = logits.gather(-1, tokens[:, 1:, None])[..., 0] - logits.logsumexp(-1)
    return [values[:len(row) - 1].numpy() for row, values in zip(rows, chosen, strict=True)]
