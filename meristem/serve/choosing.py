"""The next token of many texts at once, each by its own settings: what `generate.autoregressive` chooses for it alone.

    for row, token in zip(rows, chosen(rows, logits)):         # a Token, None: nothing may follow, or what went wrong
        ...
"""
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from meristem.core.errors import MachineError, MeristemError, RequestError
from meristem.core.random import uniform
from meristem.generate.base import likeliest
from meristem.generate.sampling import BANNED, pick
from meristem.nn import kernel
from meristem.serve.jobs import Row, Token


def chosen(rows: Sequence[Row], logits: Tensor) -> list[Token | None | MeristemError]:
    """One for each row of fp32 `logits` [B, V]; a row's random number depends on its seed and place alone."""
    total, best = kernel.judge(logits)
    sums = total.tolist()
    steered = any(row.controls for row in rows)
    allowed = logits.clone() if steered else logits
    out: list[Token | None | MeristemError] = [None] * len(rows)
    ways: dict[tuple[float, ...], list[int]] = {}
    for i, row in enumerate(rows):
        try:
            if not math.isfinite(sums[i]):
                raise MachineError("the model's logits are not finite numbers; its weights are damaged")
            for control in row.controls:
                allowed[i] = control.apply(allowed[i])
        except MeristemError as error:                         # a grammar beyond its limits is the request's matter
            out[i] = RequestError(str(error)) if row.grammar else error
            continue
        if row.controls and bool(allowed[i].max() == BANNED):
            continue
        way = row.sampling
        ways.setdefault((way.temperature, way.top_k, way.top_p, way.min_p), []).append(i)
    for which in ways.values():                                # rows that agree in what `pick` looks at
        places, way = torch.tensor(which), rows[which[0]].sampling
        if way.temperature == 0:
            new = allowed[places].argmax(-1) if steered else best[places]
        else:
            at = uniform(np.concatenate([rows[i].key for i in which]), np.array([rows[i].written for i in which]))
            new = pick(allowed if len(which) == len(allowed) else allowed[places], at, way)
        values = (logits[places, new] - total[places]).tolist()
        for i, token, value in zip(which, new.tolist(), values, strict=True):
            count = rows[i].sampling.top_logprobs
            top = likeliest(logits[i:i + 1], total[i:i + 1], count)[0] if count else ()
            out[i] = Token(token, value, top)
    return out
