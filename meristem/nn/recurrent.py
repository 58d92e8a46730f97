"""The recurrent layer: an LSTM (Hochreiter & Schmidhuber 1997; with a forget gate, Gers et al. 2000), as torch has it.

    y = LSTM(dim, hidden)(x)                                    # [B, T, D] -> [B, T, H]

Without segments and cache the whole sequence goes through torch's fused kernel; otherwise step by step. `weight_drop`
is DropConnect on the recurrent matrix (Merity et al. 2017, https://arxiv.org/abs/1708.02182 section 2): one mask for
all steps, so the fused kernel serves. A `States` cache keeps the state after every position and is used like one of
keys and values: slot p belongs to position p, and what a row saw beyond its end is never read.
"""
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Linear


class States:
    """Hidden and cell states [B, length + 1, H] of one layer: index 0 is zero, p + 1 the state after position p."""

    def __init__(self, batch: int, length: int, hidden: int, dtype: torch.dtype = torch.float32):
        self.h = torch.zeros(batch, length + 1, hidden, dtype=dtype)
        self.c = torch.zeros(batch, length + 1, hidden)        # a sum over all steps so far: fp32

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows."""
        self.h, self.c = self.h[rows], self.c[rows]

    def join(self, others: Sequence["States"]) -> None:
        """Append the rows of other caches of the same length."""
        self.h = torch.cat([self.h, *(other.h for other in others)])
        self.c = torch.cat([self.c, *(other.c for other in others)])


class LSTM(nn.Module):
    """One layer; gates in torch's order (input, forget, cell, output), with torch's two biases."""

    def __init__(self, dim: int, hidden: int, weight_drop: float = 0.0):
        super().__init__()
        self.hidden, self.weight_drop = hidden, weight_drop
        self.input, self.recurrent = Linear(dim, 4 * hidden), Linear(hidden, 4 * hidden)

    @torch.compiler.disable                                    # the compiler would unroll every time step
    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"] | None = None,
                cache: States | None = None, segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T H"]:
        """Hidden states in the type of x; with `segments` the state is zero again where a new one begins.

        With a cache, `positions` are consecutive in each row and the state goes on from the one before the first.
        """
        plain = type(self.input) is Linear and type(self.recurrent) is Linear          # not wrapped by an adapter
        zero = x.new_zeros(1, len(x), self.hidden)
        if plain and cache is None and segments is None:
            weights = [self.input.weight, self._dropped(), self.input.bias, self.recurrent.bias]
            return torch.lstm(x, (zero, zero), [w.to(x.dtype) for w in weights], True, 1, 0.0, self.training, False,
                              True)[0]
        if cache is None:
            h, c = self._steps(x, zero[0], zero[0].float(), segments, plain)
            return h
        assert positions is not None, "a cache needs the positions of the tokens"
        rows = torch.arange(len(x))
        h, c = self._steps(x, cache.h[rows, positions[:, 0]].to(x.dtype), cache.c[rows, positions[:, 0]], None, plain)
        cache.h[rows[:, None], positions + 1], cache.c[rows[:, None], positions + 1] = h.to(cache.h.dtype), c
        return h

    def _dropped(self) -> Tensor:
        return F.dropout(self.recurrent.weight, self.weight_drop, self.training)

    def _steps(self, x: Tensor, h: Tensor, c: Tensor, segments: Tensor | None, plain: bool) -> tuple[Tensor, Tensor]:
        """Hidden [B, T, H] and cell states, one step after the other from the state (h, c); gates and cell in fp32."""
        weight = self._dropped().to(x.dtype) if plain else None
        inward, hs, cs = self.input(x), [], []
        for t in range(x.shape[1]):
            if segments is not None and t:
                same = (segments[:, t] == segments[:, t - 1])[:, None]
                h, c = h * same, c * same
            across = self.recurrent(h) if weight is None else F.linear(h, weight, self.recurrent.bias.to(x.dtype))
            i, f, g, o = (inward[:, t] + across).float().chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = (o.sigmoid() * c.tanh()).to(x.dtype)
            hs.append(h)
            cs.append(c)
        return torch.stack(hs, 1), torch.stack(cs, 1)
