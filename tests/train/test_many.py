"""train.many: any number of processes takes the steps of one, whatever they divide; faults 30, 31, 35; resharding."""
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from meristem.adapt import lora
from meristem.core import parallel, registry
from meristem.core.errors import MachineError, RequestError
from meristem.core.mesh import Mesh
from meristem.core.run import Train
from meristem.data.loader import batch_of
from meristem.models import vit
from meristem.nn.linear import compute_in
from meristem.objectives.base import Objective, make
from meristem.train import divided, hooks, many
from meristem.train.checkpoint import Checkpoints
from meristem.train.many import spread
from meristem.train.mesh import connect, join, refuse_uneven
from meristem.train.pieces import Share
from meristem.train.processes import One
from meristem.train.trainer import Trainer, recompute_blocks
from tests.train.processes import spawned

SHAPE = {"vocab": 61, "context": 16, "dim": 32, "layers": 2, "heads": 4}
FAMILIES = {
    "llama": {**SHAPE, "groups": 2, "hidden": 64, "qk_norm": True, "tied": True},
    "gpt2": SHAPE,
    "palm": {**SHAPE, "hidden": 64},
    "mixtral": {**SHAPE, "hidden": 32, "experts": 4, "top_k": 2},
    "t5": {"vocab": 61, "dim": 32, "layers": 2, "heads": 4, "head_dim": 8, "hidden": 64, "dropout": 0.0,
           "feed_forward": "gated-gelu", "tied": False},
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


def pairs(step: int, micro: int) -> list[dict[str, torch.Tensor]]:
    """The same rows to be written after reading them backwards."""
    return [{**batch, "source": batch["tokens"].flip(1)} for batch in source(step, micro=micro)]


def trainer_of(mesh: str, family: str, folder: Path | None = None, micro: int = 8, rank: int = 0, **train) -> Trainer:
    """A small run on a mesh, its processes already in one group."""
    entry = registry.load("models", "mixtral" if family == "balanced" else family)
    config = Train(**{"steps": STEPS, "batch": 8, "micro": 0 if micro == 8 else micro, "context": 16, "warmup": 2,
                      "dtype": "float32", "lr": 1e-2, "mesh": mesh, **train})
    torch.manual_seed(0)
    model = compute_in(entry.Model(entry.Config(**FAMILIES[family])), getattr(torch, config.dtype))
    if rank:
        model.blocks[0].mlp.down.weight.data.normal_(std=0.1)  # a frozen zero would let nothing through
        lora.apply(model, rank)
    objective = make("seq2seq" if family == "t5" else "next_token", model, {})
    if config.recompute:
        recompute_blocks(objective)
    one = Mesh.of(mesh).world == 1
    processes = One() if one else spread(objective, config, join(Mesh.of(mesh)))
    first = one or dist.get_rank() == 0
    checkpoints = None if folder is None else Checkpoints(folder, processes=Mesh.of(mesh).world) if first else \
        Share(folder, dist.get_rank())
    rows = functools.partial(pairs if family == "t5" else source, micro=micro)
    return Trainer(objective, rows, config, checkpoints=checkpoints, processes=processes)


def run(mesh: str, family: str, **train) -> list[float]:
    """Losses and gradient norms of all steps."""
    trainer = trainer_of(mesh, family, **train)
    numbers: list[float] = []
    trainer.hooks.append(lambda t, facts: numbers.extend((facts["loss"], facts["grad_norm"])))
    trainer.fit()
    return numbers


def go_on(mesh: str, folder: str, stop: int) -> list[float]:
    """Steps of one run from its newest checkpoint, or from nothing, up to `stop`, and a checkpoint there."""
    trainer = trainer_of(mesh, "llama", folder=Path(folder), guard=False)
    assert trainer.resume() == (stop > 4)
    numbers = []
    while trainer.step < stop:
        numbers.append(trainer.update(trainer.source(trainer.step))["loss"])
        trainer.step += 1
    trainer.save(wait=True)
    return numbers


def one_bad_number() -> list[str]:
    """Why each step was refused when the loss of the last process alone is no number in the third one (fault 35)."""
    trainer = trainer_of("dp=2", "llama", steps=5)
    score = trainer.objective.score
    bad = dist.get_rank() == dist.get_world_size() - 1

    def broken(output, batch):
        loss, facts = score(output, batch)
        return (loss * math.nan if bad and trainer.step == 2 else loss), facts

    trainer.objective.score = broken
    said: list[str] = []
    trainer.hooks.append(lambda t, facts: said.append(facts["skipped"]))
    trainer.fit()
    return [*said, str(all(torch.isfinite(p.to_local()).all() for p in trainer.optim.params))]


def one_bit(what: str) -> str:
    """How a run ends in which the last process's weights or rows become others (fault 31)."""
    many.CHECK = 10                     # this process is the test's own
    trainer = trainer_of("dp=2", "llama", shard=False, steps=11)
    bad = dist.get_rank() == dist.get_world_size() - 1

    def spoil(t, facts):
        if what == "weights" and bad and t.step == 7:
            t.objective.model.norm.weight.data[3] += 1e-7

    if what == "rows" and bad:
        right = trainer.source
        trainer.source = lambda step: right(step + (step == 8))
    trainer.hooks.append(spoil)
    try:
        trainer.fit()
    except MachineError as error:
        return f"step {trainer.step}: {error}"
    return "it ended well"


class Pairs(Objective):
    """Every row against every other, with a learned scale: what a contrastive loss asks of many processes."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__(torch.nn.ModuleDict({"a": torch.nn.Linear(6, 4), "b": torch.nn.Linear(6, 4)}))
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def inputs(self, batch):
        return {}

    def forward(self, batch):
        return self.score(torch.stack([self.model["a"](batch["x"]), self.model["b"](batch["x"].flip(1))]), batch)

    def score(self, output, batch):
        here, there = output[0], parallel.gather(output[1])
        mine = parallel.rank() + parallel.count() * torch.arange(len(here))
        middle = parallel.summed(output[1].sum(0)) / len(there)                    # a mean over the whole batch, too
        logits = self.scale.exp() * here @ (there - middle).T
        return torch.nn.functional.cross_entropy(logits, mine, reduction="sum"), {}


def contrasted(mesh: str) -> list[float]:
    """Losses and norms of an objective whose rows depend on each other."""
    config = Train(steps=8, batch=8, lr=0.03, warmup=1, dtype="float32", mesh=mesh, optimizer="adamw")
    objective = Pairs()
    processes = spread(objective, config, join(Mesh.of(mesh))) if mesh else One()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(8, 8, 6, generator=draw)
    trainer = Trainer(objective, lambda step: [{"x": x[step], "weight": torch.ones(8)}], config, processes=processes)
    numbers: list[float] = []
    trainer.hooks.append(lambda t, facts: numbers.extend((facts["loss"], facts["grad_norm"])))
    trainer.fit()
    rest = [{"x": x[0, :5], "weight": torch.ones(5)}]
    return [*numbers, hooks.validate(objective, rest, processes)]


def distilled(mesh: str) -> list[float]:
    """Losses and norms of a student that learns from its teacher, by answers balanced over the whole batch; then the
    teacher's weights in one number."""
    config = Train(steps=4, batch=8, lr=0.01, warmup=1, dtype="float32", mesh=mesh)
    torch.manual_seed(5)
    model = vit.Model(vit.Config(kind="dinov2", image=8, patch=4, dim=16, layers=1, heads=2))
    objective = make("self_distillation", model, {"prototypes": 8, "hidden": 16, "narrow": 8, "local": 1,
                                                  "standard": True, "momentum": 0.5})
    processes = spread(objective, config, join(Mesh.of(mesh))) if mesh else One()
    images = torch.randint(0, 256, (4, 8, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    trainer = Trainer(objective, lambda step: [{"images": images[step], "weight": torch.ones(8)}], config,
                      processes=processes)
    numbers: list[float] = []
    trainer.hooks.append(lambda t, facts: numbers.extend((facts["loss"], facts["spread"], facts["grad_norm"])))
    trainer.fit()
    return [*numbers, sum(float(divided.whole(p).abs().sum()) for p in objective.teacher.parameters())]


def validated() -> list[float]:
    """The loss over batches of which the last cannot be shared by two; and the whole model's weights in one number."""
    trainer = trainer_of("dp=2", "llama", steps=3)
    trainer.fit()
    model = trainer.processes.model(trainer.objective)
    total = sum(float(t.double().abs().sum()) for t in model.state_dict().values()) if model else 0.0
    return [hooks.validate(trainer.objective, [*source(100), *source(101, 3)], trainer.processes), total]


def everything(cases: list[tuple[str, str, dict]], folder: str) -> dict[str, Any]:
    """All that two processes are asked, in one start of them."""
    return {"runs": [run(mesh, family, **train) for mesh, family, train in cases],
            "on": go_on("dp=2", folder, 7) + go_on("tp=2", folder, 10),
            "pairs": contrasted("dp=2"), "distilled": distilled("dp=2"),
            "nan": one_bad_number(), "weights": one_bit("weights"), "rows": one_bit("rows"), "validated": validated()}


TWO: list[tuple[str, str, dict]] = [
    ("dp=2", "llama", {}), ("dp=2", "llama", {"shard": False, "micro": 4}), ("dp=2", "mixtral", {"micro": 4}),
    ("tp=2", "llama", {"recompute": True}), ("cp=2", "llama", {}), ("ep=2", "mixtral", {}),
    ("pp=2", "llama", {"micro": 4})]
MORE: list[tuple[str, str, dict]] = [
    ("tp=2", "gpt2", {}), ("tp=2", "palm", {}), ("tp=2", "mixtral", {}), ("ep=2", "balanced", {}),
    ("dp=2", "llama", {"optimizer": "muon"}),
    ("tp=2", "llama", {"optimizer": "muon"}), ("dp=2", "llama", {"optimizer": "adafactor", "lr": 0.1}),
    ("dp=2", "llama", {"optimizer": "schedule_free"}), ("dp=2", "llama", {"ema": 0.9}), ("tp=2", "t5", {}),
    ("dp=2", "llama", {"rank": 4}), ("tp=2", "llama", {"dtype": "bfloat16"}),
    ("dp=2", "mixtral", {"dtype": "bfloat16"})]
FOUR: list[tuple[str, str, dict]] = [
    ("dp=4", "llama", {}), ("tp=4", "gpt2", {}), ("dp=2,tp=2", "llama", {}), ("dp=2,pp=2", "llama", {"micro": 4}),
    ("dp=2,cp=2", "llama", {}), ("dp=2,ep=2", "mixtral", {}), ("cp=2,tp=2", "llama", {}), ("ep=2,tp=2", "mixtral", {}),
    ("pp=2,cp=2", "llama", {"micro": 4}), ("pp=2,ep=2", "mixtral", {"micro": 4}),
    ("dp=2,tp=2", "llama", {"shard": False}), ("dp=2,ep=2", "mixtral", {"shard": False})]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    alone = go_on("", str(folder / "checkpoints"), 4)
    both = spawned(2, everything, folder, TWO, str(folder / "checkpoints"))
    return *both, alone, go_on("", str(folder / "checkpoints"), STEPS)


def name(case: tuple[str, str, dict]) -> str:
    return " ".join(map(str, (*case[:2], *case[2].items())))


def check(case: tuple[str, str, dict], *seen: list[float]) -> None:
    _, family, train = case
    alone = run("", family, **{key: value for key, value in train.items() if key not in ("shard", "recompute")})
    assert all(numbers == seen[0] for numbers in seen), "all say the same"
    # Muon orthogonalises in bf16: another order of summation alone moves its norms by 1e-4 (micro-batches do as much)
    limit = 1e-3 if train.get("optimizer") == "muon" else 6e-2 if train.get("dtype") == "bfloat16" else 1e-5
    assert max(abs(a - b) / max(1, abs(b)) for a, b in zip(seen[0], alone, strict=True)) < limit
    assert alone[-2] < alone[0] - (0.001 if "rank" in train else 0.3), "nothing was learned"


@pytest.mark.parametrize("case", TWO, ids=name)
def test_two_processes_take_the_steps_of_one(two, case):
    check(case, *(rank["runs"][TWO.index(case)] for rank in two[:2]))


def test_one_two_and_one_process_in_turn_make_one_run(two):
    first, second, before, after = two
    assert first["on"] == second["on"]
    whole = run("", "llama", guard=False)[::2]
    assert [*before, *first["on"], *after] == pytest.approx(whole, abs=1e-5) and len(whole) == STEPS


def test_rows_that_are_compared_with_all_others_see_those_of_the_other_process(two):
    assert two[0]["pairs"] == two[1]["pairs"] == pytest.approx(contrasted(""), abs=1e-5)


def test_a_student_and_its_teacher_are_divided(two):
    alone = distilled("")
    assert two[0]["distilled"] == two[1]["distilled"] == pytest.approx(alone, rel=1e-4) and len(set(alone)) == 13


def test_a_bad_number_in_one_process_is_refused_by_all(two):
    for rank in two[:2]:
        *said, finite = rank["nan"]
        assert said == ["", "", "its loss or gradient is not finite", "", ""] and finite == "True"


@pytest.mark.parametrize("what", ["weights", "rows"])
def test_a_process_that_goes_astray_is_named_by_all(two, what):
    for rank in two[:2]:
        assert rank[what].startswith("step 10: process 1 of 2 has other")


def test_a_batch_that_cannot_be_shared_is_judged_once(two):
    loss, total = two[0]["validated"]
    alone = trainer_of("", "llama", steps=3)
    alone.fit()
    assert two[1]["validated"] == [loss, 0.0]
    assert loss == pytest.approx(hooks.validate(alone.objective, [*source(100), *source(101, 3)]), abs=1e-5)
    weights = sum(float(t.double().abs().sum()) for t in alone.objective.model.state_dict().values())
    assert total == pytest.approx(weights, rel=1e-5)


@pytest.mark.parametrize(("train", "mesh", "says"), [
    ({"batch": 9}, "dp=2", "train.batch=9 rows do not divide by the 2"),
    ({"batch": 8, "micro": 3}, "dp=2", "train.micro=3 rows do not divide"),
    ({"batch": 8}, "dp=2,ep=3", "do not divide by the 6")])
def test_what_cannot_be_divided_is_refused_before_anything_starts(train, mesh, says):
    with pytest.raises(RequestError, match=says):
        refuse_uneven(Train(**train), Mesh.of(mesh))


def test_the_number_of_processes_must_be_that_of_the_mesh(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RequestError, match="for 2 processes and 3 were started.*torchrun --nproc-per-node 2"), \
            connect(Train(mesh="dp=2")):
        pass


def only_runs(cases: list[tuple[str, str, dict]]) -> list[list[float]]:
    return [run(mesh, family, **train) for mesh, family, train in cases]


def resumed(meshes: list[str], folder: str) -> list[float]:
    """One run that goes on for a few steps on each mesh in turn, from the pieces the one before has left."""
    return [number for i, mesh in enumerate(meshes) for number in go_on(mesh, folder, 6 + 2 * i)]


@pytest.mark.slow
def test_four_processes_go_on_from_the_pieces_of_other_four(tmp_path):
    meshes = ["dp=4", "dp=2,tp=2", "cp=2,tp=2", "dp=4"]
    before = go_on("", str(tmp_path / "checkpoints"), 4)
    ranks = spawned(4, resumed, tmp_path, meshes, str(tmp_path / "checkpoints"))
    assert [*before, *ranks[0]] == pytest.approx(run("", "llama", guard=False)[::2], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "cases"), [(2, MORE), (4, FOUR)], ids=["two", "four"])
def test_other_ways_to_divide(tmp_path, count, cases):
    seen = spawned(count, only_runs, tmp_path, cases)
    for i, case in enumerate(cases):
        check(case, *(rank[i] for rank in seen))
