"""Hundreds of LoRA adapters on one base in one batch: every row of a batch has its own.

    bank = Bank(module, "llama", base_hash, Path("adapters"), places=256)
    held = bank.hold("support")                                # read by memory map, None while all places are in use
    with bank.using([held, None, other]):                      # one a row of the batch
        module.features(...)
    bank.drop("support")

Chen et al. 2023 (Punica), https://arxiv.org/abs/2310.18547; Sheng et al. 2023 (S-LoRA),
https://arxiv.org/abs/2311.03285: the base's product is one for all rows, the low-rank ones are each row's own. With the
native kernel both are in one call of all blocks (`nn.updates`); torch's products are grouped by adapter. An adapter's
file is mapped, and laid out for the kernel when a batch first needs it; the least recently used leaves when the places
are full. Folders are PEFT's (`adapt.files`), LoRA or rsLoRA: DoRA and other methods change the base's product, so they
are served alone (`meristem serve ADAPTER`).
"""
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.adapt import base, files, lora
from meristem.core.errors import RequestError, nearest
from meristem.nn.decode import Fusible
from meristem.nn.paged import ROWS
from meristem.nn.updates import PARTS, Rows, Updates

MOST = 10_000                           # adapters that one folder may hold
EVERY = 1.0                             # seconds after which an unknown name is looked for again


@dataclass
class Adapter:
    """One adapter in memory: the update of each layer by name, and how many texts are using it."""

    name: str
    updates: dict[str, lora.Update]
    users: int = 0
    native: Updates | None = None       # the same for the kernel, in one type

    def laid(self, slots: Sequence[str], dtype: torch.dtype) -> Updates:
        """The updates of these layers as the kernel reads them."""
        if self.native is None or self.native.kept.dtype != dtype:
            some = [self.updates.get(name) for name in slots]
            self.native = Updates([(u.a, u.b, u.scale) if u else None for u in some], dtype)
        return self.native


class Batch:
    """Whose rows the current forward's are; `native`: the kernel may be used, though its sums have another order."""

    def __init__(self, slots: Sequence[str], native: bool):
        self.slots, self.native = slots, native
        self.rows: Sequence[Adapter | None] = ()
        self.whole: Adapter | None = None                      # every row's, however many there are
        self.groups: list[tuple[Adapter, Tensor | None]] | None = None
        self.laid: Rows | None = None

    def set(self, rows: Sequence[Adapter | None], whole: Adapter | None = None) -> None:
        """From now on row i is rows[i]'s (None: the base's), or every row is one adapter's."""
        self.rows, self.whole, self.groups, self.laid = rows, whole, None, None

    def grouped(self) -> list[tuple[Adapter, Tensor | None]]:
        """Each adapter with the rows that it is for; None: every row."""
        if self.groups is None:
            which = dict[int, list[int]]()
            for i, adapter in enumerate(self.rows):
                if adapter is not None:
                    which.setdefault(id(adapter), []).append(i)
            self.groups = [(self.whole, None)] if self.whole else []
            for some in which.values():
                adapter = self.rows[some[0]]
                assert adapter is not None
                self.groups.append((adapter, None if len(some) == len(self.rows) else torch.tensor(some)))
        return self.groups

    def of(self, dtype: torch.dtype) -> Rows:
        """The rows for the kernel."""
        if self.laid is None:
            self.laid = Rows([a.laid(self.slots, dtype) if a else None for a in self.rows])
        return self.laid


class Grouped(base.Layer):
    """A linear layer, and for each row of the batch the update of that row's adapter."""

    def __init__(self, layer: nn.Module, name: str, batch: Batch):
        super().__init__(layer)
        self.name, self.batch, self.slot = name, batch, batch.slots.index(name)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in_features] -> [B, T, out_features]."""
        y: Tensor = self.base(x)
        batch = self.batch
        if batch.native and batch.rows and (found := batch.of(x.dtype).add(x, y, self.slot)) is not None:
            return found
        for adapter, rows in batch.grouped():
            update = adapter.updates.get(self.name)
            if update is None:
                continue
            if rows is None:
                y = y + _low_rank(x, update)
            else:
                y[rows] = y[rows] + _low_rank(x[rows], update)
        return y


def _low_rank(x: Tensor, update: lora.Update) -> Tensor:
    """scale * B A x as `lora.LoRA` computes it, at least ROWS rows at once (`nn.paged`)."""
    flat = x.reshape(-1, x.shape[-1])
    count = len(flat)
    if count < ROWS:
        flat = torch.cat([flat, flat[-1:].expand(ROWS - count, -1)])
    y = update.scale * F.linear(F.linear(flat, update.a.to(x.dtype)), update.b.to(x.dtype))
    return y[:count].view(*x.shape[:-1], -1)


class Bank:
    """The adapters of one base: those in a folder by name, and those of them in memory, at most `places`."""

    def __init__(self, module: nn.Module, family: str, base_hash: str, folder: Path, places: int = 256,
                 native: bool = True):
        self.module, self.family, self.base_hash, self.folder, self.places = module, family, base_hash, folder, places
        self.names = base.Names(module, family)
        self.batch = Batch(self._slots(), native)
        self.kept: OrderedDict[str, Adapter] = OrderedDict()   # the least recently used first
        self.known: dict[str, Path] = {}
        self.loads = self.evictions = 0
        self.looked = 0.0
        self.look()

    def look(self) -> list[str]:
        """The names of the adapters that lie in the folder now."""
        if not self.folder.is_dir():
            raise RequestError(f"{self.folder} is no folder of adapters")
        found = {}
        for path in sorted(self.folder.iterdir())[:MOST]:
            inner = next((p for p in (path, path / "adapter") if (p / files.CONFIG).is_file()), None)
            if inner is not None and ":" not in path.name:
                found[path.name] = inner
        self.known, self.looked = found, time.monotonic()
        return list(found)

    def knows(self, name: str) -> bool:
        """Whether there is such an adapter; the folder is looked at again when not, once a second."""
        if name not in self.known and time.monotonic() - self.looked > EVERY:
            self.look()
        return name in self.known

    def hold(self, name: str) -> Adapter | None:
        """The adapter, in memory until `drop`; None while all places are taken by others in use.

        RequestError: no such adapter, one of another base, one that cannot share a batch.
        """
        adapter = self.kept.get(name)
        if adapter is None:
            if len(self.kept) >= self.places:
                idle = next((n for n, a in self.kept.items() if not a.users), None)
                if idle is None:
                    return None
                del self.kept[idle]
                self.evictions += 1
            adapter = self.kept[name] = self._read(name)
            self.loads += 1
        self.kept.move_to_end(name)
        adapter.users += 1
        return adapter

    def wraps(self, layer: str) -> bool:
        """Whether an adapter that was read updates this layer."""
        return isinstance(vars(self.module)["_modules"].get(layer), Grouped)

    def drop(self, name: str) -> None:
        """One text less uses it."""
        self.kept[name].users -= 1

    @contextmanager
    def using(self, rows: Sequence[Adapter | None]) -> Iterator[None]:
        """Inside, row i of a batch is computed with rows[i] (None: the base)."""
        if not any(rows):
            yield
            return
        with self._as(list(rows)):
            yield

    def call(self, name: str, work: Callable[[Any], Any]) -> Any:
        """`work(module)` with one adapter for all rows."""
        adapter = self.hold(name)
        if adapter is None:
            raise RequestError("all places for adapters are in use; ask again")
        try:
            with self._as([], adapter):
                return work(self.module)
        finally:
            self.drop(name)

    @contextmanager
    def _as(self, rows: Sequence[Adapter | None], whole: Adapter | None = None) -> Iterator[None]:
        module: Any = self.module
        fused = module.native if isinstance(module, Fusible) else None
        self.batch.set(rows, whole)
        if fused is not None and rows and self.batch.native:
            fused.rows = self.batch.of(fused.dtype)
        elif fused is not None:
            module.native = None                               # it knows adapters by rows, in its own sums
        try:
            yield
        finally:
            self.batch.set(())
            if fused is not None:
                fused.rows, module.native = None, fused

    def _slots(self) -> list[str]:
        """Every linear layer, those of a `Fusible`'s blocks first and in the kernel's order."""
        blocks = len(self.module.blocks) if isinstance(self.module, Fusible) else 0
        first = [f"blocks.{i}.{part}" for i in range(blocks) for part in PARTS]
        return [*first, *(name for name in self.names.linears if name not in set(first))]

    def _read(self, name: str) -> Adapter:
        if not self.knows(name):
            raise RequestError(f"no adapter {name!r}; {nearest(name, self.known)}")
        folder = self.known[name]
        entry, config, _, tensors = files.read(folder, self.base_hash)
        if entry is not lora or config.get("use_dora"):
            raise RequestError(f"adapter {name} is no plain LoRA, so it cannot share a batch; serve it alone")
        try:
            updates = lora.updates(config, tensors, self.names)
        except RequestError as error:
            raise RequestError(f"adapter {name}: {error}") from None
        with torch.no_grad():
            for layer in updates:
                plain = self.module.get_submodule(layer)
                if not isinstance(plain, Grouped):
                    base.put(self.module, layer, Grouped(plain, layer, self.batch))
        return Adapter(name, updates)
