"""Many adapters on one base in memory, swapped by name between two batches.

    bank = Bank(module, family, base_hash)
    bank.add("banking", Path("runs/banking/adapter"))
    with bank.using("banking"):                                # None: the base itself
        ...
    bank.use("banking"); bank.use(None)                        # the same, lasting

The base exists once, frozen; an adapter costs its own numbers. Swapping sets as many attributes as there are adapted
layers and copies nothing, so a base with an adapter in it computes what the adapter computes alone, to the bit. Layers
around which adapters stand are shared, so a bank takes methods that wrap layers: lora, ia3, bottleneck.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from meristem.adapt import base, files
from meristem.core.errors import RequestError, nearest

WRAPPING = ("lora", "ia3", "bottleneck")

class Bank:
    """Adapters of one base by name; `module` computes with the one in use."""

    def __init__(self, module: nn.Module, family: str, base_hash: str):
        if files.method_of(module):
            raise RequestError("a bank begins with the base itself; this model has an adapter already")
        self.module, self.family, self.base_hash = module.requires_grad_(False), family, base_hash
        self.plain = base.linears(module)
        self.kept: dict[str, dict[str, base.Layer]] = {}
        self.active: str | None = None

    def add(self, name: str, folder: Path) -> None:
        """Read an adapter; RequestError where it is of another base or does not wrap layers, and nothing changes."""
        if (method := files.method(folder)) not in WRAPPING:
            raise RequestError(f"{folder}: {method} changes the base, so it cannot share it; use {', '.join(WRAPPING)}")
        before = self.active
        self.use(None)
        try:
            files.load(folder, self.module, self.family, self.base_hash)
            self.kept[name] = base.layers(self.module, base.Layer)
        finally:
            self._bare()
            self.use(before)

    def use(self, name: str | None) -> None:
        """Compute with this adapter from now on, or with the base; RequestError names the nearest."""
        if name is not None and name not in self.kept:
            raise RequestError(f"no adapter {name!r} in this bank; {nearest(name, self.kept)}")
        self._bare()
        for layer, wrapped in self.kept.get(name or "", {}).items():
            base.put(self.module, layer, wrapped)
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[nn.Module]:
        """The module with this adapter, inside; the one before comes back."""
        before = self.active
        self.use(name)
        try:
            yield self.module
        finally:
            self.use(before)

    def _bare(self) -> None:
        for layer in base.layers(self.module, base.Layer):
            base.put(self.module, layer, self.plain[layer])
