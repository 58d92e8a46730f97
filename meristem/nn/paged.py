"""Keys and values in pages, so that many texts of unlike length share one memory and equal beginnings lie there once.

Kwon et al. 2023, https://arxiv.org/abs/2309.06180, section 4: position p of a row lies in slot p % PAGE of the page
that the row's table names at p // PAGE.

    store = Store.like(module, pages=1024)                     # memory of all layers, once
    logits = module(tokens, positions=places, cache=store.view(table))         # table [B, N]: pages of each row

Page 0 is nobody's: tables are filled up with it, and what pads a batch is written there.

The arithmetic is that of `attention.attend`, chunk of queries by chunk of queries over the same number of keys, so that
in fp32 a position computed alone has the bits it has in the trainer's forward over rows of a multiple of CHUNK places.
With `native` single queries are answered by the native kernel, whose sums have another order. The trainer's bits need
products whose rows do not depend on their number; MKL's do from ROWS rows on (measured, tests/nn), so
single queries are repeated. All queries of a row in one call must lie in one chunk.
"""
import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.nn import kernel
from meristem.nn.attention import CHUNK, Attention, Cache, Reach

PAGE = 16                               # positions a page; CHUNK is a multiple of it
FEW = 8                                 # queries a row up to which the native kernel is used
ROWS = 4                                # fewer rows go through another product of MKL, which sums in another order


class Store:
    """The pages of every layer, k and v [P, G, PAGE, K] each; `page_bytes` is what one page costs over all layers."""

    def __init__(self, pages: int, shapes: Sequence[tuple[int, int]], dtype: torch.dtype = torch.float32,
                 native: bool = False):
        self.pages, self.dtype, self.native = pages, dtype, native
        self.layers = [tuple(torch.zeros(pages, groups, PAGE, width, dtype=dtype) for _ in range(2))
                       for groups, width in shapes]

    @classmethod
    def like(cls, module: nn.Module, pages: int) -> "Store":
        """Pages for a decoder whose `caches` are the plain ones."""
        shapes, dtype = shapes_of(module)
        return cls(pages, shapes, dtype)

    def view(self, table: Int[Tensor, "B N"]) -> list["Paged"]:
        """The cache of a batch whose rows own the pages of `table`."""
        return [Paged(k, v, table, self.native) for k, v in self.layers]


class Paged(Cache):
    """One layer's keys and values of a batch, seen through a table of pages."""

    def __init__(self, k: Float[Tensor, "P G S K"], v: Float[Tensor, "P G S K"], table: Int[Tensor, "B N"],
                 native: bool = False):
        self.k, self.v, self.table, self.native = k, v, table, native

    def write(self, k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G K"], positions: Int[Tensor, "B T"]) -> None:
        """Put keys and values of tokens at `positions` into their pages."""
        page, slot = self.table.gather(1, positions // PAGE), positions % PAGE
        self.k[page, :, slot] = k
        self.v[page, :, slot] = v

    def attend(self, q: Float[Tensor, "B T H K"], positions: Int[Tensor, "B T"], reach: Reach, *, scale: float,
               bias: Float[Tensor, "*N H T S"] | None = None) -> Float[Tensor, "B T H K"]:
        """As `attention.attend` over rows that are filled up to a multiple of CHUNK places."""
        assert bias is None
        if self.native and q.shape[1] <= FEW and (found := self._see(q, positions, reach, scale)) is not None:
            return found
        chunk = positions[:, -1] // CHUNK
        every = chunk.unique().tolist()
        if len(every) == 1:
            return self._chunk(q, self.table, positions, every[0], reach, scale)
        out = torch.empty_like(q)
        for c in every:
            rows = (chunk == c).nonzero()[:, 0]
            out[rows] = self._chunk(q[rows], self.table[rows], positions[rows], c, reach, scale)
        return out

    def _see(self, q: Tensor, positions: Tensor, reach: Reach, scale: float) -> Tensor | None:
        """By the native kernel, which reads the pages where they are; None where there is no kernel."""
        lib = kernel.library() if q.device.type == "cpu" and q.dtype in kernel.KINDS else None
        if lib is None or not reach.causal or q.dtype != self.k.dtype:
            return None
        batch, each, heads, width = q.shape
        table, positions, wide = self.table.contiguous(), positions.contiguous(), q.float().contiguous()
        net = kernel.Network(heads=heads, groups=self.k.shape[1], head_dim=width, half=q.dtype == torch.bfloat16,
                             scale=scale, table=table.data_ptr(), width=table.shape[1])
        layer = kernel.Layer(keys=self.k.data_ptr(), values=self.v.data_ptr(), window=reach.window, chunk=reach.chunk)
        out = torch.empty_like(wide)
        lib.meristem_see(ctypes.byref(net), ctypes.byref(layer), wide.data_ptr(), positions.data_ptr(), out.data_ptr(),
                         batch * each, each, torch.get_num_threads())
        return out.to(q.dtype)

    def _chunk(self, q: Tensor, table: Tensor, positions: Tensor, chunk: int, reach: Reach, scale: float) -> Tensor:
        """Queries that all lie in one chunk of places: `attention.attend` with the keys read through the table."""
        batch, length, heads, _ = q.shape
        groups = self.k.shape[1]
        each, low, high = heads // groups, reach.first(chunk * CHUNK), (chunk + 1) * CHUNK
        k, v = self._read(table, low, high)
        if length < ROWS:
            q = torch.cat([q, q[:, -1:].expand(-1, ROWS - length, -1, -1)], 1)
            positions = torch.cat([positions, positions[:, -1:].expand(-1, ROWS - length)], 1)
        q = (q * scale).unflatten(2, (groups, each)).permute(0, 2, 3, 1, 4)                        # [B, G, H/G, T, K]
        score = (q.flatten(2, 3) @ k.transpose(2, 3)).unflatten(2, (each, -1)).float()             # [B, G, H/G, T, s]
        seen = reach.seen(positions, torch.arange(low, high, device=q.device).expand(batch, -1))[:, None, None]
        share = score.masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
        y = (share.flatten(2, 3) @ v).unflatten(2, (each, -1))
        return y.permute(0, 3, 1, 2, 4).flatten(2, 3)[:, :length]

    def _read(self, table: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, high - low, K] of positions low to high; those behind a row's pages are page 0's."""
        first, last = low // PAGE, high // PAGE
        pages = table[:, first:last]
        if pages.shape[1] < last - first:
            pages = torch.cat([pages, pages.new_zeros(len(pages), last - first - pages.shape[1])], 1)
        k, v = (t[pages].transpose(1, 2).flatten(2, 3)[:, :, low - first * PAGE:] for t in (self.k, self.v))
        return k, v

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows."""
        self.table = self.table[rows]


def shapes_of(module: nn.Module) -> tuple[list[tuple[int, int]], torch.dtype]:
    """Key/value heads and their width of each layer, and the type they are kept in."""
    kept = module.caches(1, 1)                                 # type: ignore[operator]
    return [(c.k.shape[1], c.k.shape[3]) for c in kept], kept[0].k.dtype


def pageable(module: nn.Module) -> bool:
    """Whether a decoder's texts can lie in pages: its caches are plain ones, and its attention only looks back."""
    attentions = [m for m in module.modules() if isinstance(m, Attention)]
    if not attentions or not all(m.reach.causal for m in attentions) or "vocab" not in vars(module.config):
        return False
    try:
        return all(type(c) is Cache for c in module.caches(1, 1))              # type: ignore[operator]
    except (AttributeError, TypeError):                        # no decoder, or one that reads a source first
        return False
