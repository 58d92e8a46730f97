"""Hundreds of LoRA adapters on one base in one batch: every row of a batch has its own.

    bank = Bank(module, "llama", base_hash, Path("adapters"), places=256)
    held = bank.hold("support")                                # read by memory map, None while all places are in use
    with bank.using([held, None, other]):                      # one a row of the batch
        module.features(...)
    bank.drop("support")

Chen et al. 2023 (Punica), https://arxiv.org/abs/2310.18547; Sheng et al. 2023 (S-LoRA),
https://arxiv.org/abs/2311.03285: the base's product is one for all rows, the low-rank ones are grouped by adapter.
An adapter's numbers stay where its file is mapped; the least recently used leaves when the places are full. Folders are
PEFT's (`adapt.files`), LoRA or rsLoRA: DoRA and other methods change the base's product, so they are served alone
(`meristem serve ADAPTER`).
"""
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.adapt import base, files, lora
from meristem.core.errors import RequestError, nearest
from meristem.nn import kernel
from meristem.nn.decode import Fusible
from meristem.nn.paged import FEW, ROWS

MOST = 10_000                           # adapters that one folder may hold
EVERY = 1.0                             # seconds after which an unknown name is looked for again


@dataclass
class Adapter:
    """One adapter in memory: the update of each layer by name, and how many texts are using it."""

    name: str
    updates: dict[str, lora.Update]
    users: int = 0


@dataclass
class Batch:
    """Whose rows the current forward's are: each adapter with the rows that it is for; None: every row."""

    groups: list[tuple[Adapter, Tensor | None]] = field(default_factory=list)
    rows: list[Adapter | None] = field(default_factory=list)
    native: bool = True                 # the native kernel may be used: its sums have another order


class Grouped(base.Layer):
    """A linear layer, and for each row of the batch the update of that row's adapter."""

    def __init__(self, layer: nn.Module, name: str, batch: Batch):
        super().__init__(layer)
        self.name, self.batch = name, batch

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in_features] -> [B, T, out_features]."""
        y: Tensor = self.base(x)
        if self.batch.native and (found := self._native(x, y)) is not None:
            return found
        for adapter, rows in self.batch.groups:
            update = adapter.updates.get(self.name)
            if update is None:
                continue
            if rows is None:
                y = y + _low_rank(x, update)
            else:
                y[rows] = y[rows] + _low_rank(x[rows], update)
        return y


    def _native(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Every row by the native kernel; None without one, or where torch's products of many rows are faster."""
        if not self.batch.rows or x.shape[1] > FEW:
            return None
        each, some = x.shape[1], [a.updates.get(self.name) if a else None for a in self.batch.rows]
        updates = [(u.a, u.b, u.scale) if u else None for u in some for _ in range(each)]
        found = kernel.low_rank(x.flatten(0, 1), y.flatten(0, 1), updates)
        return None if found is None else found.view(y.shape)


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
        self.batch = Batch(native=native)
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

    def drop(self, name: str) -> None:
        """One text less uses it."""
        self.kept[name].users -= 1

    @contextmanager
    def using(self, rows: Sequence[Adapter | None]) -> Iterator[None]:
        """Inside, row i of a batch is computed with rows[i] (None: the base)."""
        where: dict[int, list[int]] = {}
        for i, adapter in enumerate(rows):
            if adapter is not None:
                where.setdefault(id(adapter), []).append(i)
        if not where:
            yield
            return
        groups: list[tuple[Adapter, Tensor | None]] = []
        for which in where.values():
            adapter = rows[which[0]]
            assert adapter is not None
            groups.append((adapter, None if len(which) == len(rows) else torch.tensor(which)))
        with self._as(Batch(groups, list(rows))):
            yield

    def call(self, name: str, work: Callable[[Any], Any]) -> Any:
        """`work(module)` with one adapter for all rows."""
        adapter = self.hold(name)
        if adapter is None:
            raise RequestError("all places for adapters are in use; ask again")
        try:
            with self._as(Batch([(adapter, None)])):
                return work(self.module)
        finally:
            self.drop(name)

    @contextmanager
    def _as(self, batch: Batch) -> Iterator[None]:
        module: Any = self.module
        fused = module.native if isinstance(module, Fusible) else None
        if fused is not None:
            module.native = None                               # one call of all blocks knows no adapters
        self.batch.groups, self.batch.rows = batch.groups, batch.rows
        try:
            yield
        finally:
            self.batch.groups, self.batch.rows = [], []
            if fused is not None:
                module.native = fused

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
