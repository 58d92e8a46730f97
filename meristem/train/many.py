"""A run in many processes: what each does of a step, and how they stay one run (torchrun; train/mesh.py).

A step's batch is a function of (seed, step) and the same everywhere. Every process prepares all of it, so that masks
and noise are those of one process, and keeps its rows (row r of n: r, r + n, ...) and, with cp, its part of each row.
The loss is divided by the weight of the whole batch and gradients are summed, so any number of processes minimises the
same function; decisions (the guard's, when to save, whether to stop) rest on reduced numbers that are equal to the bit.
Every CHECK steps all processes compare their batches, numbers and copies of weights, and an odd one is named.
"""
import contextlib
import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from meristem.core import parallel
from meristem.core.errors import MachineError
from meristem.core.files import digest_bytes
from meristem.core.random import seed_of
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.objectives.base import Objective
from meristem.train import context, experts, tensor
from meristem.train.checkpoint import Checkpoints, Found
from meristem.train.divided import axes, divided, local, whole
from meristem.train.mesh import UNIONS, World
from meristem.train.pieces import Box, Layout, Share, Stored, Tensors, box
from meristem.train.pipeline import Pipeline
from meristem.train.processes import Like, One, Sums, add
from meristem.train.shard import add_up, shard

MODEL = "model."                        # what an objective's model is called in its state
CHECK = 50                              # steps between two comparisons of all processes


def spread(objective: Objective, train: Train, world: World) -> "Many":
    """Divide `objective` over the processes of `world` as its mesh says, in place, before there is an optimizer.

    RequestError for what cannot be divided; MachineError when the processes do not start with the same weights.
    """
    mesh = world.mesh
    Many(world, objective.model).compare(0, objective, {})
    plain = outline(objective.model)
    if mesh.tp > 1:
        tensor.divide(objective.model, world.sub("tp"))
    apart = experts.divide(objective.model, world.sub("ep")) if mesh.ep > 1 else []
    if mesh.cp > 1:
        context.spread(objective, world, train.context)
    if mesh.pp > 1:
        return Many(world, plain, Pipeline(objective, world.group("pp"), train.pipeline))
    if train.shard:
        shard(objective, world, apart)
    return Many(world, plain)


def outline(module: nn.Module) -> nn.Module:
    """A copy of a module without numbers (on the meta device), and without the memory of a copy."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(t): t.detach().to("meta") if not isinstance(t, nn.Parameter) else
                                  nn.Parameter(t.detach().to("meta"), t.requires_grad) for t in tensors})


class Many(One):
    """One of the processes of `world`; `plain` outlines the undivided model, `pipeline` is there if layers are
    divided."""

    def __init__(self, world: World, plain: nn.Module, pipeline: Pipeline | None = None):
        self.world, self.pipeline = world, pipeline
        self.plain = self.outline = plain
        self.seen: list[str] = []                              # digests of the batches since the last comparison
        self.boxes: dict[tuple[str, torch.Size], Box] = {}     # where its pieces lie: the same all the time

    def seed(self, seed: int, step: int) -> None:
        """Other rows, other dropout; the processes of tp have the same."""
        torch.manual_seed(seed_of(seed, "step", step, "rows", self.world.row, self.world.at["cp"]))

    def mine(self, batch: Batch) -> Batch:
        """Its rows and places; what all were given is remembered for `compare`."""
        self.seen = [digest_bytes(*self.seen, *(_raw(batch[key]) for key in sorted(batch)))]
        return self._part(batch)

    def judge(self, objective: Objective, batch: Batch) -> tuple[float, float]:
        """A batch whose rows do not divide is judged by everybody and counted once."""
        rows = next(len(value) for value in batch.values() if value.ndim)
        shared = rows % self.world.mesh.rows == 0              # a rest that is not: everybody judges it, one counts
        mine = self._part(batch) if shared else context.part(batch, self.world)
        with contextlib.nullcontext() if shared else parallel.alone():
            if self.pipeline is not None:
                loss = float(self.pipeline.evaluate([mine])["loss"])
            else:
                loss = float(objective(mine)[0])
        return (loss, float(objective.weight(mine))) if shared or self.world.row == 0 else (0.0, 0.0)

    def _part(self, batch: Batch) -> Batch:
        rows = self.world.mesh.rows
        batch = {key: value[self.world.row:: rows] if value.ndim else value for key, value in batch.items()}
        return context.part(batch, self.world)

    def sum(self, *values: float) -> list[float]:
        """In fp64, over "data"."""
        return self.world.sum(values, "data")

    def backward(self, objective: Objective, micro: list[Batch], share: float) -> Sums:
        """As one process does, and gradients added up."""
        if self.pipeline is not None:
            sums = self.pipeline.backward(micro, share)
        else:
            sums = {}
            for i, batch in enumerate(micro):
                if isinstance(objective, FSDPModule):          # gradients travel once, after the last micro-batch
                    objective.set_requires_gradient_sync(i == len(micro) - 1)
                loss, extra = objective(batch)
                (loss / share).backward()
                add(sums, {"loss": loss, **extra})
        params = [p for p in objective.parameters() if p.grad is not None and not {"data", "copies"} & axes(p).keys()]
        for p in params:                                       # what fully_shard did not take: whole copies, scalars
            if p.grad is not None and divided(p.grad) and divided(p):
                p.grad = p.grad.redistribute(placements=p.placements)          # a sum over tp that is still owed
        add_up([p for p in params if "ep" not in axes(p)], self.world.group("data"))
        add_up([p for p in params if "ep" in axes(p)], self.world.group("copies"))       # whose experts are the same
        names = sorted(sums)
        return dict(zip(names, map(torch.tensor, self.sum(*(float(sums[name]) for name in names))), strict=True))

    def norm(self, params: Sequence[nn.Parameter]) -> Tensor:
        """Every process adds its squares, each divided by the number of processes that have the same."""
        mesh, square = self.world.mesh, 0.0
        copies = mesh.world // mesh.pp
        twin = self.pipeline.twin if self.pipeline is not None and self.pipeline.rank else None
        for p in params:
            if p.grad is not None and p is not twin:           # the last stage's copy of a tied table
                grad = local(p.grad)
                shares = math.prod(axes(p).values()) / copies
                square += shares * float(torch.linalg.vector_norm(grad, dtype=torch.float32)) ** 2
        return torch.tensor(self.world.sum([square])[0], dtype=torch.float64).sqrt()

    def clip(self, params: Sequence[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Every process scales what it has by the same number."""
        scale = min(1.0, limit / (float(norm) + 1e-6))         # torch's own formula
        for p in params:
            if p.grad is not None:
                local(p.grad).mul_(scale)

    def agree(self, signal: int, save: bool) -> tuple[int, bool]:
        """The largest signal number, and what the first process wants."""
        number, due = self.world.most([float(signal), float(save and self.world.first)])
        return int(number), bool(due)

    def compare(self, step: int, objective: Objective, facts: dict[str, Any]) -> None:
        """Every CHECK steps; see KINDS for who should have what in common."""
        if step % CHECK and step:
            return
        said = {key: facts.get(key) for key in ("loss", "grad_norm", "lr", "tokens", "skipped")}
        table = self.world.gathered([_number(json.dumps(said), *self.seen), *_weights(objective)])
        self.seen = []
        mesh = self.world.mesh
        for column, (what, apart) in enumerate(KINDS.items()):
            groups: dict[tuple[int, ...], list[int]] = {}      # processes that should have the same
            for rank in range(mesh.world):
                groups.setdefault(tuple(mesh.at(rank)[axis] for axis in apart), []).append(rank)
            for ranks in groups.values():
                values = [table[rank][column] for rank in ranks]
                common = max(values, key=values.count)         # of two, the first is believed
                odd = [rank for rank, value in zip(ranks, values, strict=True) if value != common]
                if odd:
                    raise MachineError(f"process {', '.join(map(str, odd))} of {mesh.world} has other {what} than the "
                                       f"rest at step {step}: its memory or its data is not to be trusted; the last "
                                       "checkpoint is intact: leave that machine out and run the same command again")

    def pieces(self, tensors: Tensors) -> tuple[Tensors, Layout | None]:
        """Its local tensors, but those that a process before it on some axis has as well."""
        mine: Tensors = {}
        layout: Layout = {}
        for key, named in tensors.items():
            mine[key], layout[key] = {}, {}
            for name, full in (named if self.pipeline is None else self.pipeline.kept(named)).items():
                here = local(full)
                if self._writes(full) and (here.numel() or not full.numel()):
                    if (name, full.shape) not in self.boxes:
                        self.boxes[name, full.shape] = box(full)
                    mine[key][name], layout[key][name] = here, self.boxes[name, full.shape]
        return mine, layout

    def _writes(self, tensor: Tensor) -> bool:
        """Whether this process stands first on every axis over which a tensor is not divided."""
        over = {axis for name in axes(tensor) for axis in UNIONS.get(name, (name,))}
        return all(self.world.at[axis] == 0 for axis in ("dp", "cp", "ep", "tp") if axis not in over)

    def whole(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put together by all, kept by the first."""
        gathered = {name: whole(tensor) for name, tensor in named.items()}     # every process takes part in each
        if self.pipeline is not None:
            gathered = self.pipeline.gather(gathered)
        return gathered if self.world.first else {}

    def model(self, objective: Objective) -> nn.Module | None:
        """Built anew from the outline; ties are kept."""
        state = self.whole({name: t for name, t in objective.state_dict().items() if name.startswith(MODEL)})
        if not self.world.first:
            return None
        made: dict[int, nn.Parameter] = {}
        model = copy.deepcopy(self.outline)
        for name, p in model.named_parameters(remove_duplicate=False):         # tied ones become one again
            made.setdefault(id(p), nn.Parameter(state[MODEL + name], p.requires_grad))
        params = {name: made[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
        buffers = {name: state[MODEL + name] for name in model.state_dict() if name not in params}
        model.load_state_dict({**params, **buffers}, assign=True)
        return model.eval()

    def newest(self, checkpoints: Checkpoints | Share, last: int | None, like: Like) -> Found | None:
        """The first process verifies; each reads its part of every tensor."""
        def look() -> Any:
            assert isinstance(checkpoints, Checkpoints)
            found = checkpoints.find(last)
            return None if found is None else [found.step, str(found.path), found.state]

        head = self.world.lead(look)
        if head is None:
            return None
        step, path, state = head
        try:
            stored = Stored(Path(path), state)
        except FileNotFoundError as error:
            raise MachineError(f"process {self.world.rank} does not see {error.filename}: a run's folder must lie "
                               "where all its processes see it") from None
        tensors: Tensors = {}
        for key in stored.boxes:
            names = {name: name for name in stored.names(key)}
            mine = names if self.pipeline is None else self.pipeline.own(names)
            tensors[key] = {name: stored.read(key, source, like(source.partition(":")[0]))
                            for name, source in mine.items()}
        return step, tensors, state["meta"]


# What should be equal on processes that differ on tp alone, or anyhow: the axes on which they may stand apart.
KINDS: dict[str, tuple[str, ...]] = {"batches or numbers": (), "weights": ("pp",),
                                     "parts of the weights": ("pp", "dp", "cp", "ep")}


def _weights(objective: Objective) -> tuple[int, int]:
    """Digests of the tensors that are whole here, and of those that are divided, but not over tp."""
    named = dict(sorted(objective.state_dict().items()))
    undivided = [t for t in named.values() if not axes(t)]
    divided = [t for t in named.values() if axes(t) and "tp" not in axes(t)]
    one, other = (_number(*(_raw(local(t)) for t in some)) for some in (undivided, divided))
    return one, other


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _number(*parts: str | bytes) -> int:
    return int(digest_bytes(*parts)[:15], 16)
