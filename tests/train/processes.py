"""Several gloo processes for a test: `spawned(2, work, folder, 5)` calls work(5) on each and returns what they return.

They meet through a file, so no port is taken; `work` is a function at the top of an importable module, its arguments
are JSON values.
"""
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.starter import started


def spawned(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """The JSON value that work(*args) returns on each of `world` processes, in the order of ranks."""
    (folder / "meeting").unlink(missing_ok=True)
    statuses = started("tests.train.processes:begin", world, work.__module__, work.__name__, str(folder), args,
                       processes=world)
    assert not any(statuses), statuses
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world)]


def begin(rank: int, world: int, module: str, name: str, folder: str, args: list[Any]) -> None:
    """One of the processes."""
    work = getattr(importlib.import_module(module), name)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(work(*args)))
    finally:
        dist.destroy_process_group()
