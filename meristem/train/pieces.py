"""A checkpoint in pieces: every process writes what only it has, and reads what it needs, on any number of processes.

    step-000100/  model-00000.safetensors  model-00001.safetensors  optim-00000.safetensors ...
                  pieces-00000.json  pieces-00001.json              where each tensor's piece lies in the whole one
                  state.json  MANIFEST.json

A piece is a box of a whole tensor: its first index on each axis, and its own shape. Of several processes with the same
piece the one at the beginning of their axes writes it. The first process commits the folder when all pieces are there
(core.files.committed), so a checkpoint is whole or absent as ever; nobody gathers anything, and no process has more
than its own pieces in memory. The run folder must lie on a file system that all processes see. Rajbhandari et al. 2020
(ZeRO, section 5) divides the states; the format is ours: safetensors and JSON, no pickle.
"""
import contextlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from meristem.core.errors import MachineError
from meristem.core.faults import point
from meristem.core.files import read_json, sync, write_json
from meristem.train.divided import divided, part

PATIENCE = 120.0                        # seconds the first process waits for the pieces of the others
Tensors = dict[str, dict[str, Tensor]]


class Box(NamedTuple):
    """Where a piece lies: the whole tensor's shape, and its first index on each axis."""

    shape: list[int]
    start: list[int]


Layout = dict[str, dict[str, Box]]      # by file and name


def box(tensor: Tensor) -> Box:
    """Where this process's part of a divided tensor lies; the whole of an ordinary one. Nothing is sent.

    The numbers of an axis are divided like the tensor itself, so any way in which torch divides is right. ValueError
    where a part is no box.
    """
    start = [0] * tensor.ndim
    if not divided(tensor):
        return Box(list(tensor.shape), start)
    here = tensor.to_local()
    for axis, size in enumerate(tensor.shape):
        if here.shape[axis] == size or not here.numel():
            continue
        numbers = torch.arange(size).view([-1 if i == axis else 1 for i in range(tensor.ndim)]).expand(tensor.shape)
        mine = part(numbers, tensor)
        assert divided(mine)
        mine = mine.to_local()
        start[axis] = int(mine.min())
        if int(mine.max()) - start[axis] + 1 != here.shape[axis]:
            raise ValueError("a process has numbers of a tensor that do not lie side by side")
    return Box(list(tensor.shape), start)


class Pieces:
    """The files of one process's pieces: kept buffers, and the aliases of tensors that share memory."""

    def __init__(self) -> None:
        self.buffers: Tensors = {}

    def copy(self, tensors: Tensors) -> dict[str, dict[str, str]]:
        """Copy into the kept buffers; {file: {name: the name whose memory it shares}} for tied tensors, kept once."""
        aliases: dict[str, dict[str, str]] = {}
        buffers: Tensors = {}
        for key, named in tensors.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", key):
                raise ValueError(f"{key!r} cannot name a file of tensors")
            old = self.buffers.get(key, {})
            seen: dict[tuple[object, ...], str] = {}           # memory -> the first name that has it
            buffers[key], aliases[key] = {}, {}
            for name, tensor in named.items():
                place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
                if tensor.numel() and place in seen:
                    aliases[key][name] = seen[place]
                    continue
                seen[place] = name
                kept = old.get(name)
                if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                    kept = torch.empty(tensor.shape, dtype=tensor.dtype)
                buffers[key][name] = kept.copy_(tensor.detach())
        self.buffers = buffers
        return aliases

    def write(self, folder: Path, rank: int | None = None, layout: Layout | None = None,
              aliases: dict[str, dict[str, str]] | None = None) -> None:
        """The buffers as files in `folder`: `model.safetensors`, or with a `rank` `model-00001.safetensors` and what
        pieces they hold."""
        for key, named in self.buffers.items():
            save_file(named, folder / f"{key}{'' if rank is None else f'-{rank:05d}'}.safetensors")
            point("ckpt.tensors")
        if rank is not None:
            (folder / f"pieces-{rank:05d}.json").write_text(json.dumps({"aliases": aliases, "layout": layout}))


class Share:
    """The checkpoints of a run, to a process that is not the first: it writes its pieces, the first one commits them.

    Its failures are told to the first process, which counts and reports them.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self._pieces = Pieces()
        self._writer = ThreadPoolExecutor(1, "pieces")
        self._pending: Future[None] | None = None
        self._saves = 0                                        # in this launch, as the first process counts them

    def save(self, step: int, tensors: Tensors, meta: dict[str, Any], behind: Sequence[int] = (),
             layout: Layout | None = None) -> None:
        """Copy the pieces now, write them behind the caller's back."""
        self.wait()
        self._saves += 1
        aliases = self._pieces.copy(tensors)
        self._pending = self._writer.submit(self._write, self._saves, layout, aliases)

    def _write(self, save: int, layout: Layout | None, aliases: dict[str, dict[str, str]]) -> None:
        target = handed(self.folder, save, self.rank)
        temporary = target.with_name(f".tmp-{target.name}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._pieces.write(temporary, self.rank, layout, aliases)
            for path in temporary.iterdir():
                sync(path)
            os.rename(temporary, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(MachineError, OSError):
                write_json(target.with_suffix(".failed"), str(error))

    def wait(self) -> None:
        """Block until the pieces of the last save are written."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Finish the writing under way."""
        self.wait()
        self._writer.shutdown()

    def check(self) -> None:
        """Nothing: the first process reports."""

    def lock(self) -> None:
        """Nothing: the first process has the lock."""

    def forget(self, stale: Callable[[int, dict[str, Any]], bool]) -> None:
        """Nothing: the first process deletes."""


def handed(folder: Path, save: int, rank: int) -> Path:
    """Where a process leaves its pieces of a launch's so-many-th save for the first one to commit.

    Not by step: the last one may be saved twice, and a process may be a save ahead of the first.
    """
    return folder / f".part-{save:06d}-{rank:05d}"


def collect(folder: Path, save: int, processes: int, into: Path) -> None:
    """Move the pieces of every other process into `into`; MachineError when one has failed or does not come."""
    until = time.monotonic() + PATIENCE
    for rank in range(1, processes):
        there = handed(folder, save, rank)
        failed = there.with_suffix(".failed")
        while not there.is_dir():
            if failed.exists():
                why = read_json(failed)
                failed.unlink(missing_ok=True)
                raise MachineError(f"process {rank} could not write its part: {why}")
            if time.monotonic() > until:
                raise MachineError(f"process {rank} did not write its part within {PATIENCE:.0f} s; all processes must "
                                   f"see {folder}")
            time.sleep(0.01)
        for path in list(there.iterdir()):
            os.rename(path, into / path.name)
        there.rmdir()


def sweep(folder: Path) -> None:
    """Remove what killed processes left for the first one."""
    for path in folder.glob(".part-*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


class Stored:
    """The tensors of a committed checkpoint, read from their files as they are asked for, whole or in part.

    ValueError, KeyError or SafetensorError where the files do not hold what they say.
    """

    def __init__(self, path: Path, state: dict[str, Any]):
        self.path = path
        self._open: dict[str, Any] = {}
        self.boxes: dict[str, dict[str, list[tuple[str, Box]]]] = {}           # by key and name: (file, box)
        self.aliases: dict[str, dict[str, str]] = {}
        tables = [read_json(p) for p in sorted(path.glob("pieces-*.json"))] if state.get("processes", 1) > 1 else []
        for key, aliases in state["aliases"].items():
            self.boxes[key], self.aliases[key] = {}, dict(aliases)
            if not tables:
                file = f"{key}.safetensors"
                self.boxes[key] = {name: [(file, Box(shape := self._shape(file, name), [0] * len(shape)))]
                                   for name in self._file(file).keys()}        # noqa: SIM118
            for rank, table in enumerate(tables):
                file = f"{key}-{rank:05d}.safetensors"
                self.aliases[key] |= table["aliases"].get(key, {})
                for name in self._file(file).keys():           # noqa: SIM118 (no mapping)
                    self.boxes[key].setdefault(name, []).append((file, Box(*table["layout"][key][name])))
            for name, pieces in self.boxes[key].items():
                there, whole = (sum(math.prod(self._shape(file, name)) for file, _ in pieces),
                                math.prod(pieces[0][1].shape))
                if there != whole or any(shape != pieces[0][1].shape for _, (shape, _) in pieces):
                    raise ValueError(f"the pieces of {name} have {there} of {whole} numbers, or are of other shapes")

    def names(self, key: str) -> Iterator[str]:
        """Every name, tied ones too."""
        yield from self.boxes[key]
        yield from self.aliases[key]

    def read(self, key: str, name: str, like: Tensor | None = None) -> Tensor:
        """A whole tensor, or this process's part of it where `like` is a divided one of its shape."""
        pieces = self.boxes[key][self.aliases[key].get(name, name)]
        name = self.aliases[key].get(name, name)
        shape = pieces[0][1].shape
        if like is None or not divided(like) or list(like.shape) != shape:
            return self._fill(name, pieces, Box(shape, [0] * len(shape)), shape)
        from torch.distributed.tensor import DTensor
        here = self._fill(name, pieces, box(like), list(like.to_local().shape))
        return DTensor.from_local(here, like.device_mesh, like.placements, run_check=False, shape=like.shape,
                                  stride=like.stride())

    def _fill(self, name: str, pieces: list[tuple[str, Box]], wanted: Box, size: list[int]) -> Tensor:
        """The box of `size` at `wanted` from the pieces that overlap it."""
        if len(pieces) == 1 and wanted.start == pieces[0][1].start and size == self._shape(pieces[0][0], name):
            return self._file(pieces[0][0]).get_tensor(name)
        made, filled = None, 0
        for file, (_, start) in pieces:
            ends = [a + b for a, b in zip(start, self._shape(file, name), strict=True)]
            low = [max(a, b) for a, b in zip(start, wanted.start, strict=True)]
            high = [min(a, b + n) for a, b, n in zip(ends, wanted.start, size, strict=True)]
            if any(b <= a for a, b in zip(low, high, strict=True)):
                continue
            found = self._file(file).get_slice(name)[tuple(map(slice, *_less(low, high, start)))]
            made = found.new_empty(size) if made is None else made
            made[tuple(map(slice, *_less(low, high, wanted.start)))] = found
            filled += found.numel()
        if made is None:
            made = self._file(pieces[0][0]).get_tensor(name).new_empty(size)
        if filled != made.numel():
            raise ValueError(f"{name} has {filled} of {made.numel()} numbers")
        return made

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.path / name, "pt")
        return self._open[name]

    def _shape(self, file: str, name: str) -> list[int]:
        return list(self._file(file).get_slice(name).get_shape())


def _less(low: list[int], high: list[int], start: list[int]) -> tuple[list[int], list[int]]:
    return [a - s for a, s in zip(low, start, strict=True)], [b - s for b, s in zip(high, start, strict=True)]
