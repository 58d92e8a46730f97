"""This process among the others of a run: who they are, and what they tell each other.

    with connect(run.train) as world:              # under torchrun --nproc-per-node 4
        world.group("tp"); world.at["dp"]; world.first

One DeviceMesh has the axes of `core.mesh.Mesh`; "rows" (dp x ep: other rows), "data" (dp x cp x ep: other rows or
places, over which gradients are summed) and "copies" (dp x cp: the same experts) are made of them. Messages are tensors
and JSON, never pickles. In one process nothing is connected, and a world without torchrun costs nothing.
"""
import datetime
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from meristem.core import machine, parallel
from meristem.core.errors import MeristemError, RequestError
from meristem.core.mesh import AXES, Mesh
from meristem.core.run import Train
from meristem.train.meeting import meet

if TYPE_CHECKING:                       # 0.8 s that one process does not pay
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
TIMEOUT = 1800.0                        # seconds of a collective; train.watch ends a hung run long before
UNIONS = {"rows": ("dp", "ep"), "data": ("dp", "cp", "ep"), "copies": ("dp", "cp")}


def refuse_uneven(train: Train, mesh: Mesh) -> None:
    """RequestError where rows cannot be divided: before anything is started."""
    for field in ("batch", "micro"):
        rows = getattr(train, field)
        if rows % mesh.rows:
            raise RequestError(f"train.{field}={rows} rows do not divide by the {mesh.rows} processes that share them "
                               f"(dp={mesh.dp}, ep={mesh.ep}); choose a multiple of {mesh.rows}")


class World:
    """Where this process stands. Every method that communicates must be called by all processes of its group."""

    def __init__(self, mesh: Mesh, rank: int = 0, device_mesh: "DeviceMesh | None" = None):
        self.mesh, self.rank, self.first, self.at = mesh, rank, rank == 0, mesh.at(rank)
        self.row = self.at["dp"] * mesh.ep + self.at["ep"]     # it has rows row, row + mesh.rows, ... of every batch
        self.device_mesh = device_mesh
        self.unions: dict[str, DeviceMesh] = {}
        if device_mesh is not None:
            for name, axes in UNIONS.items():
                self.unions[name] = device_mesh[axes]._flatten(name)           # torch has no public name for it

    def sub(self, name: str) -> "DeviceMesh":
        """The mesh along one axis or union, through this process."""
        assert self.device_mesh is not None, "one process has no mesh"
        return self.unions[name] if name in self.unions else self.device_mesh[name]

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group along one axis or union, through this process."""
        return self.sub(name).get_group()

    def sum(self, values: Sequence[float], name: str = "") -> list[float]:
        """Each number summed over a group (default: all processes), in fp64; the same bits everywhere."""
        return self._reduce(values, dist.ReduceOp.SUM, name)

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of each number over all processes."""
        return self._reduce(values, dist.ReduceOp.MAX, "")

    def _reduce(self, values: Sequence[float], how: Any, name: str) -> list[float]:
        if self.mesh.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how, self.group(name) if name else None)
        return tensor.tolist()

    def told(self, value: Any) -> Any:
        """What the first process says (JSON); the others' values are ignored."""
        if self.mesh.world == 1:
            return value
        raw = json.dumps(value).encode() if self.first else b""
        size = torch.tensor([len(raw)])
        dist.broadcast(size, 0)
        text = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if self.first else torch.empty(int(size),
                                                                                               dtype=torch.uint8)
        dist.broadcast(text, 0)
        return json.loads(bytes(text.numpy()))

    def gathered(self, values: Sequence[int]) -> list[list[int]]:
        """Some 64-bit integers of every process, in the order of ranks."""
        mine = torch.tensor(values, dtype=torch.int64)
        everyone = [torch.empty_like(mine) for _ in range(self.mesh.world)]
        dist.all_gather(everyone, mine)
        return [tensor.tolist() for tensor in everyone]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process's numbers, in place."""
        dist.broadcast(tensor, 0)
        return tensor

    def meet(self) -> None:
        """Wait for all processes."""
        if self.mesh.world > 1:
            dist.barrier()

    def lead(self, work: Callable[[], T]) -> T:
        """The first process works; all get its answer (JSON), or its error if it fails with a line of ours."""
        return self._after(work, lambda told: told)

    def in_turn(self, work: Callable[[], T]) -> T:
        """The first process works (fits a tokenizer, writes shards), then the others do and find that done."""
        return self._after(work, None)

    def _after(self, work: Callable[[], T], answer: Callable[[Any], T] | None) -> T:
        if self.mesh.world == 1:
            return work()
        failed, made = None, None
        if self.first:
            try:
                made = work()
            except MeristemError as error:
                failed = error
        status, line, value = self.told([failed.status if failed else 0, str(failed), made if answer else None])
        if failed:
            raise failed
        if status:
            raise type("Theirs", (MeristemError,), {"status": status})(line)
        return answer(value) if answer else made if self.first and made is not None else work()


ALONE = World(Mesh())


def join(mesh: Mesh) -> World:
    """The world of a process group that exists already; the objectives' gathers (core.parallel) go through it."""
    from torch.distributed.device_mesh import init_device_mesh
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)    # two gathers are meant
    world = World(mesh, dist.get_rank(), init_device_mesh(machine.device().type, mesh.sizes, mesh_dim_names=AXES))
    parallel.share_rows({name: world.group(name) for name in ("rows", "data")})
    return world


@contextmanager
def connect(train: Train) -> Iterator[World]:
    """The world that `train.mesh` names, until the end of the block.

    RequestError when it needs another number of processes than were started, or rows do not divide.
    """
    text, started = train.mesh, int(os.environ.get("WORLD_SIZE", "1"))
    mesh = Mesh.of(text)
    if mesh.world != started:
        which = f"train.mesh={text} is for {mesh.world} processes" if text else "train.mesh names no processes"
        raise RequestError(f"{which} and {started} were started; start it with: torchrun --nproc-per-node "
                           f"{mesh.world} -m meristem ..., or set train.mesh=dp={started}")
    if started == 1:
        yield ALONE
        return
    refuse_uneven(train, mesh)
    timeout = datetime.timedelta(seconds=max(TIMEOUT, 2 * train.hang_seconds))
    store, rank, count = meet(timeout)
    backend = "gloo" if machine.device().type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    try:
        world = join(mesh)
        yield world
        world.meet()                                           # nobody leaves while another still reads
    finally:
        parallel.share_rows({})
        dist.destroy_process_group()
