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
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]) <= batch_tokens:
            stop += 1
        some = order[start:stop]
        tokens = torch.zeros(len(some), len(rows[some[-1]]), dtype=torch.long)
        for i, row in enumerate(some):
            tokens[i, :len(rows[row])] = torch.as_tensor(np.asarray(rows[row]), dtype=torch.long)
        logits = module(tokens[:, :-1]).float()
        chosen = logits.gather(-1, tokens[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        for i, row in enumerate(some):
            out[row] = chosen[i, :len(rows[row]) - 1].numpy()
        start = stop
    module.train(was_training)
    return out
