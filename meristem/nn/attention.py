"""One attention for every family: multi-head, grouped-query or multi-query, causal, with a static cache for decoding.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; grouped queries: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245.
What differs between families is where this layer sits (the block's wiring), so that lives in `models/`.

Without a cache, queries are taken in chunks over their causal prefix with explicit matrix products. On a CPU
`scaled_dot_product_attention` stops at 80 to 90 GFLOP/s in any type, explicit bf16 products reach three times that, and
the triangle above the diagonal is skipped chunk by chunk instead of computed and masked.
"""
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from meristem.nn.linear import Linear
from meristem.nn.norm import RMSNorm
from meristem.nn.position import rotate

CHUNK = 128                             # queries a chunk: 64 is as fast at T = 256, slower at 1,024


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

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows (finished ones leave the batch)."""
        self.k, self.v = self.k[rows], self.v[rows]


class Attention(nn.Module):
    """Causal self-attention with `heads` query heads sharing `groups` key/value heads."""

    def __init__(self, dim: int, heads: int, *, groups: int | None = None, head_dim: int | None = None,
                 bias: bool = False, qk_norm: bool = False, eps: float = 1e-6):
        super().__init__()
        self.heads, self.groups, self.head_dim = heads, groups or heads, head_dim or dim // heads
        self.q = Linear(dim, self.heads * self.head_dim, bias)
        self.k = Linear(dim, self.groups * self.head_dim, bias)
        self.v = Linear(dim, self.groups * self.head_dim, bias)
        self.o = Linear(self.heads * self.head_dim, dim, bias)
        self.q_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T K"] | None = None,
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """Attend causally; with a cache, write at `positions` and see slots 0..position of each row."""
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)) for f in (self.q, self.k, self.v))     # [B, T, heads, K]
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if cache is None:
            y = causal(q, k, v)
        else:
            assert positions is not None
            cache.write(k, v, positions)
            y = cached(q, cache, positions)
        return self.o(y.flatten(2))


def causal(q: Float[Tensor, "B T H K"], k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G K"],
           chunk: int = CHUNK) -> Float[Tensor, "B T H K"]:
    """Causal attention in query chunks, each over its prefix; probabilities in fp32, products in the inputs' type."""
    length, heads, size = q.shape[1:]
    groups = k.shape[2]
    each = heads // groups
    q = (q * size**-0.5).unflatten(2, (groups, each)).permute(0, 2, 3, 1, 4)                       # [B, G, H/G, T, K]
    k, v = k.permute(0, 2, 3, 1), v.transpose(1, 2)                                 # [B, G, K, T], [B, G, T, K]
    out = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        score = q[:, :, :, start:stop].flatten(2, 3) @ k[..., :stop]                               # [B, G, H/G*t, stop]
        score = score.unflatten(2, (each, stop - start)).float()
        at = torch.arange(stop, device=q.device)
        share = score.masked_fill(at > at[start:, None], float("-inf")).softmax(-1).to(v.dtype)
        out.append((share.flatten(2, 3) @ v[:, :, :stop]).unflatten(2, (each, stop - start)))
    return torch.cat(out, 3).permute(0, 3, 1, 2, 4).flatten(2, 3)


def cached(q: Float[Tensor, "B T H K"], cache: Cache, positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T H K"]:
    """Attention of new queries over the cache: a query at position p sees slots 0..p of its row."""
    slots = int(positions.max()) + 1
    seen = torch.arange(slots, device=q.device) <= positions[:, None, :, None]                     # [B, 1, T, S]
    y = scaled_dot_product_attention(q.transpose(1, 2), cache.k[:, :, :slots], cache.v[:, :, :slots], attn_mask=seen,
                                     enable_gqa=True)
    return y.transpose(1, 2)
