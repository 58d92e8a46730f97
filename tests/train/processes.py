"""Several gloo processes for a test: `spawned(2, work, folder, 5)` calls work(5) on each and returns what they return.

They meet through a file, so no port is taken; `work` is a function at the top of an importable module.
"""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def spawned(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """The JSON value that work(*args) returns on each of `world` processes, in the order of ranks."""
    (folder / "meeting").unlink(missing_ok=True)
    mp.spawn(_begin, (world, work, str(folder), args), nprocs=world)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world)]


def _begin(rank: int, world: int, work: Callable[..., Any], folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(work(*args)))
    finally:
        dist.destroy_process_group()
