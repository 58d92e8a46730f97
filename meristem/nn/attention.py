"""One attention for every family: multi-head, grouped-query or multi-query; causal, windowed, chunked or two-way.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; grouped queries: Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245;
sliding windows: Beltagy et al. 2020, https://arxiv.org/abs/2004.05150.
What differs between families is where this layer
sits (the block's wiring), so that lives in `models/`.

Who sees whom is decided in one place, `seen`: a causal query sees keys up to its own position, a window the last few of
them, a chunk those of its own chunk, and nobody sees another segment. `segments` [B, T] numbers the documents of a
packed row; padding is a segment of its own, so no separate padding mask exists.

Without a cache, queries are taken in chunks over the keys they may see, with explicit matrix products. On a CPU
`scaled_dot_product_attention` stops at 80 to 90 GFLOP/s in any type, explicit bf16 products reach three times that, and
what lies outside the triangle or the window is skipped chunk by chunk instead of computed and masked.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from meristem.nn.linear import Linear
from meristem.nn.norm import RMSNorm
from meristem.nn.position import rotate

QUERIES = 1024                          # new queries over a cache at once: a mask of 16k x 16k takes 1.5 GB
CHUNK = 128                             # queries a chunk: 64 is as fast at T = 256, slower at 1,024


@dataclass(frozen=True)
class Reach:
    """Which positions a query may see: 0 means no limit."""

    causal: bool = True                 # none after its own
    window: int = 0                     # the last so many, its own included (Mistral)
    chunk: int = 0                      # those of its own chunk of so many positions (Llama 4)

    def seen(self, query: Int[Tensor, "*B T"], key: Int[Tensor, "*B S"]) -> Bool[Tensor, "*B T S"]:
        """Whether the query at each position may see the key at each position."""
        q, k = query[..., :, None], key[..., None, :]
        see = k <= q if self.causal else torch.ones_like(k <= q)
        if self.window:
            see = see & (q - k < self.window)
        if self.chunk:
            see = see & (q // self.chunk == k // self.chunk)
        return see

    def first(self, start: int) -> int:
        """The first position that a query at `start` or later may see."""
        low = max(0, start - self.window + 1) if self.window else 0
        return max(low, start // self.chunk * self.chunk) if self.chunk else low


class Cache:
    """Keys and values already computed, in fixed buffers [B, G, S, K]; slot p holds position p of its row."""

    def __init__(self, batch: int, groups: int, length: int, head_dim: int, dtype: torch.dtype = torch.float32):
        self.k = torch.zeros(batch, groups, length, head_dim, dtype=dtype)
        self.v = torch.zeros(batch, groups, length, head_dim, dtype=dtype)

    def write(self, k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G K"], positions: Int[Tensor, "B T"]) -> None:
        """Put keys and values of tokens at `positions` into their slots."""
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        self.k[rows, :, positions] = k
        self.v[rows, :, positions] = v

    def attend(self, q: Float[Tensor, "B T H K"], positions: Int[Tensor, "B T"], reach: Reach, *, scale: float,
               bias: Float[Tensor, "*N H T S"] | None = None) -> Float[Tensor, "B T H K"]:
        """What new queries at `positions` see of their rows (`cached`); other layouts of the slots do it otherwise."""
        return cached(q, self, positions, reach, scale=scale, bias=bias)

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows (finished ones leave the batch)."""
        self.k, self.v = self.k[rows], self.v[rows]

    def join(self, others: Sequence["Cache"]) -> None:
        """Append the rows of other caches of the same length (prompts of like length are read together)."""
        self.k = torch.cat([self.k, *(other.k for other in others)])
        self.v = torch.cat([self.v, *(other.v for other in others)])


class Attention(nn.Module):
    """Self-attention with `heads` query heads sharing `groups` key/value heads; `scale` multiplies the scores."""

    around: Callable[..., Tensor] | None = None                # for `attend`: places of other processes, learned ones
    beside: Callable[..., Tensor] | None = None                # what is added for the queries (adapt.gated_prefix)

    def __init__(self, dim: int, heads: int, *, groups: int | None = None, head_dim: int | None = None,
                 bias: bool = False, out_bias: bool | None = None, qk_norm: bool = False, eps: float = 1e-6,
                 reach: Reach | None = None, scale: float | None = None):
        super().__init__()
        self.heads, self.groups, self.head_dim = heads, groups or heads, head_dim or dim // heads
        self.reach, self.scale = reach or Reach(), self.head_dim**-0.5 if scale is None else scale
        self.q = Linear(dim, self.heads * self.head_dim, bias)
        self.k = Linear(dim, self.groups * self.head_dim, bias)
        self.v = Linear(dim, self.groups * self.head_dim, bias)
        self.o = Linear(self.heads * self.head_dim, dim, bias if out_bias is None else out_bias)
        self.q_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()

    def project(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T F"] | None,
                positions: Int[Tensor, "B T"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, K], keys and values [B, T, G, K], normalised and turned; families may do it otherwise."""
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)) for f in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v) if rope is None else (rotate(q, rope), rotate(k, rope), v)

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T F"] | None = None,
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None,
                segments: Int[Tensor, "B T"] | None = None,
                bias: Float[Tensor, "*N H T S"] | None = None) -> Float[Tensor, "B T D"]:
        """Attend within `reach` and segment; with a cache, write at `positions` and see slots of each row's own.

        `bias` is added to the scores (T5's relative positions); with a cache S is the number of slots seen.
        """
        q, k, v = self.project(x, rope, positions)
        if cache is None:
            reach = self.reach
            if reach.chunk and positions is not None:          # each document of a packed row has its own chunks
                chunks, reach = positions // reach.chunk, replace(reach, chunk=0)
                segments = chunks if segments is None else segments * 2**32 + chunks
            y = attend(q, k, v, reach, scale=self.scale, segments=segments, bias=bias) if self.around is None else \
                self.around(q, k, v, reach, self.scale, segments)
        else:
            assert positions is not None
            cache.write(k, v, positions)
            y = cache.attend(q, positions, self.reach, scale=self.scale, bias=bias)
        if self.beside is not None:
            y = y + self.beside(self, q)
        return self.o(y.flatten(2))


class CrossAttention(nn.Module):
    """Queries from x; keys and values from another sequence, computed once (`keys`) and used by every step."""

    def __init__(self, dim: int, heads: int, *, source: int | None = None, head_dim: int | None = None,
                 bias: bool = False, scale: float | None = None):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim or dim // heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.q, self.o = Linear(dim, heads * self.head_dim, bias), Linear(heads * self.head_dim, dim, bias)
        self.k, self.v = (Linear(source or dim, heads * self.head_dim, bias) for _ in range(2))

    def keys(self, source: Float[Tensor, "B S E"]) -> tuple[Tensor, Tensor]:
        """Keys and values [B, S, H, K] of the other sequence."""
        return self.k(source).unflatten(-1, (-1, self.head_dim)), self.v(source).unflatten(-1, (-1, self.head_dim))

    def forward(self, x: Float[Tensor, "B T D"], keys: tuple[Tensor, Tensor],
                seen: Bool[Tensor, "B #T S"] | None = None) -> Float[Tensor, "B T D"]:
        """Attend to the `seen` places of the other sequence (None: all); a query that sees none gets zeros."""
        q = self.q(x).unflatten(-1, (-1, self.head_dim))
        return self.o(attend(q, *keys, Reach(causal=False), scale=self.scale, seen=seen).flatten(2))


def watched(attention: Attention, call: Callable[[], object]) -> Float[Tensor, "B H T T"]:
    """How much each place looked at each other one in a two-way layer while `call()` ran it: fp32, rows sum to 1."""
    given: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        call()
    finally:
        handle.remove()
    q, k, _ = attention.project(given[-1], None, None)
    k = k.repeat_interleave(attention.heads // attention.groups, 2)
    return (torch.einsum("bthk,bshk->bhts", q.float(), k.float()) * attention.scale).softmax(-1)


def two_way(module: nn.Module) -> bool:
    """Whether a network reads whole texts, so that it can neither write nor score one: no layer of it looks back only.

    False without any attention: a recurrent network looks back only.
    """
    causal = [m.reach.causal for m in module.modules() if isinstance(m, Attention)]
    return bool(causal) and not any(causal)


def attend(q: Float[Tensor, "B T H K"], k: Float[Tensor, "B S G K"], v: Float[Tensor, "B S G K"], reach: Reach, *,
           scale: float, segments: Int[Tensor, "B T"] | None = None, bias: Float[Tensor, "*N H T S"] | None = None,
           seen: Bool[Tensor, "B #T S"] | None = None, chunk: int = CHUNK) -> Float[Tensor, "B T H K"]:
    """Attention in query chunks over the keys each can reach; probabilities in fp32, products in the inputs' type."""
    length, heads, _ = q.shape[1:]
    groups, keys = k.shape[2], k.shape[1]
    each = heads // groups
    q = (q * scale).unflatten(2, (groups, each)).permute(0, 2, 3, 1, 4)                            # [B, G, H/G, T, K]
    k, v = k.permute(0, 2, 3, 1), v.transpose(1, 2)                                 # [B, G, K, S], [B, G, S, K]
    limited = reach != Reach(causal=False)
    out = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        low, high = reach.first(start), stop if reach.causal else keys
        score = q[:, :, :, start:stop].flatten(2, 3) @ k[..., low:high]                            # [B, G, H/G*t, s]
        score = score.unflatten(2, (each, stop - start)).float()                                   # [B, G, H/G, t, s]
        if bias is not None:
            score = score + bias[..., start:stop, low:high].unflatten(-3, (groups, each)).float()
        mask = None
        if limited:
            mask = reach.seen(torch.arange(start, stop, device=q.device), torch.arange(low, high, device=q.device))
        if segments is not None:
            same = (segments[:, start:stop, None] == segments[:, None, low:high])[:, None, None]   # [B, 1, 1, t, s]
            mask = same if mask is None else same & mask
        if seen is not None:
            mask = seen[:, None, None, start if seen.shape[1] > 1 else 0: stop, low:high]
        share = (score if mask is None else score.masked_fill(~mask, float("-inf"))).softmax(-1)
        if seen is not None:
            share = share.nan_to_num(0.0)                                           # a query that sees nothing at all
        share = share.to(v.dtype)
        out.append((share.flatten(2, 3) @ v[:, :, low:high]).unflatten(2, (each, stop - start)))
    return torch.cat(out, 3).permute(0, 3, 1, 2, 4).flatten(2, 3)


def cached(q: Float[Tensor, "B T H K"], cache: Cache, positions: Int[Tensor, "B T"], reach: Reach, *, scale: float,
           bias: Float[Tensor, "*N H T S"] | None = None) -> Float[Tensor, "B T H K"]:
    """Attention of new queries over the cache: a query at position p sees the slots of its row that `reach` allows."""
    if reach.causal and q.shape[1] > QUERIES:
        parts = []
        for start, places in zip(range(0, q.shape[1], QUERIES), positions.split(QUERIES, 1), strict=True):
            part, end = slice(start, start + QUERIES), int(places.max()) + 1
            parts.append(cached(q[:, part], cache, places, reach, scale=scale,
                                bias=None if bias is None else bias[..., part, :end]))
        return torch.cat(parts, 1)
    slots, low = int(positions.max()) + 1, reach.first(int(positions.min()))        # a window reads its own slots only
    seen = reach.seen(positions, torch.arange(low, slots, device=q.device).expand(len(positions), -1))[:, None]
    mask = seen if bias is None else bias[..., low:].to(q.dtype).masked_fill(~seen, float("-inf"))
    y = scaled_dot_product_attention(q.transpose(1, 2), cache.k[:, :, low:slots], cache.v[:, :, low:slots],
                                     attn_mask=mask, scale=scale, enable_gqa=True)
    return y.transpose(1, 2)
