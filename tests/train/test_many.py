"""train.many: any number of processes takes the steps of one, whatever they divide; faults 30, 31, 35; resharding."""
import functools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from meristem.core import registry
from meristem.core.errors import MachineError, RequestError
from meristem.core.mesh import Mesh
from meristem.core.run import Train
from meristem.data.loader import batch_of
from meristem.objectives.base import make
from meristem.train.checkpoint import Checkpoints
from meristem.train.many import spread
from meristem.train.mesh import join, refuse_uneven
from meristem.train.processes import Elsewhere, One
from meristem.train.trainer import Trainer
from tests.train.processes import spawned

SHAPE = {"vocab": 61, "context": 16, "dim": 32, "layers": 2, "heads": 4}
FAMILIES = {
    "llama": {**SHAPE, "groups": 2, "hidden": 64, "qk_norm": True, "tied": True},
    "gpt2": SHAPE,
    "palm": {**SHAPE, "hidden": 64},
    "mixtral": {**SHAPE, "hidden": 32, "experts": 4, "top_k": 2},
    "balanced": {**SHAPE, "hidden": 32, "experts": 4, "top_k": 2, "balance_loss": 0.0, "balance_rate": 0.01},
}
STEPS = 12


def source(step: int, rows: int = 8, micro: int = 8) -> list[dict[str, torch.Tensor]]:
    """Rows with runs in them (so there is something to learn), some places of weight 0."""
    draw = torch.Generator().manual_seed(step)
    tokens = (torch.randint(61, (rows, 1), generator=draw) + 3 * torch.arange(17)) % 61
    tokens[:, 5] = torch.randint(61, (rows,), generator=draw)
    weight = (torch.rand(rows, 16, generator=draw) > 0.1).float()
    return [batch_of(tokens[i: i + micro].numpy(), weight[i: i + micro].numpy()) for i in range(0, rows, micro)]


def trainer_of(mesh: str, family: str, folder: Path | None = None, micro: int = 8, **train) -> Trainer:
    entry = registry.load("models", "mixtral" if family == "balanced" else family)
    config = Train(**{"steps": STEPS, "batch": 8, "micro": 0 if micro == 8 else micro, "context": 16, "warmup": 2,
                      "dtype": "float32", "lr": 1e-2, "mesh": mesh, **train})
    torch.manual_seed(0)
    objective = make("next_token", entry.Model(entry.Config(**FAMILIES[family])), {})
    one = Mesh.of(mesh).world == 1
    processes = One() if one else spread(objective, config, join(Mesh.of(mesh)))
    first = one or dist.get_rank() == 0
    checkpoints = None if folder is None else Checkpoints(folder) if first else Elsewhere()
    return Trainer(objective, functools.partial(source, micro=micro), config, checkpoints=checkpoints,
                   processes=processes)


def run(mesh: str, family: str, micro: int = 8, **train) -> list[float]:
    """Losses and gradient norms of all steps."""
    trainer = trainer_of(mesh, family, micro=micro, **train)
    numbers: list[float] = []
    trainer.hooks.append(lambda t, facts: numbers.extend((facts["loss"], facts["grad_norm"])))
    trainer.fit()
    return numbers


def runs(cases: list[tuple[str, str, dict]]) -> list[list[float]]:
    return [run(mesh, family, **train) for mesh, family, train in cases]


TWO = [("dp=2", "llama", {}), ("dp=2", "llama", {"shard": False, "micro": 4}), ("dp=2", "mixtral", {"micro": 4}),
       ("tp=2", "llama", {}), ("tp=2", "gpt2", {}), ("tp=2", "palm", {}), ("tp=2", "mixtral", {}),
       ("cp=2", "llama", {}), ("ep=2", "mixtral", {}), ("ep=2", "balanced", {}),
       ("dp=2", "llama", {"optimizer": "muon"}), ("tp=2", "llama", {"optimizer": "muon"})]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return spawned(2, runs, tmp_path_factory.mktemp("two"), TWO)


@pytest.mark.parametrize("case", range(len(TWO)), ids=[f"{m} {f} {json.dumps(t)}" for m, f, t in TWO])
def test_two_processes_take_the_steps_of_one(two, case):
    _, family, train = TWO[case]
    alone = run("", family, **{key: value for key, value in train.items() if key != "shard"})
    assert two[0][case] == two[1][case], "both say the same"
    worst = max(abs(a - b) / max(1, abs(b)) for a, b in zip(two[0][case], alone, strict=True))
    assert worst < 1e-5, worst
    assert alone[-2] < alone[0] - 0.3, "nothing was learned"
