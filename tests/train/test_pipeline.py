"""Stages on two processes give the losses, gradient norms and weights of one."""
import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from meristem.core import registry
from meristem.core.errors import RequestError
from meristem.models import bert, gpt2, llama, lstm, mixtral
from meristem.objectives.base import Objective
from meristem.objectives.next_token import NextToken
from meristem.train.pipeline import Pipeline, cut, layers_of
from tests.train.processes import spawned
from tests.train.test_many import run, trainer_of

STEPS = 50
CASES = {"llama": "gpipe", "tied": "1f1b", "gpt2": "1f1b", "mixtral": "1f1b"}      # what is cut -> its schedule


def objective(name: str, layers: int = 2) -> Objective:
    shape = {"vocab": 30, "dim": 32, "layers": layers, "heads": 4, "context": 16}
    torch.manual_seed(0)
    if name == "gpt2":                                         # tied, with learned positions and biases
        return NextToken(gpt2.Model(gpt2.Config(**shape)))
    if name == "mixtral":
        return NextToken(mixtral.Model(mixtral.Config(**shape, hidden=32, experts=4, balance_loss=0.01)))
    return NextToken(llama.Model(llama.Config(**shape, tied=name == "tied")))


def micro(step: int, count: int = 2) -> list[dict]:
    g = torch.Generator().manual_seed(step)
    start, pace = torch.randint(30, (8, 1), generator=g), torch.randint(1, 4, (8, 1), generator=g)
    tokens, weight = (start + torch.arange(17) * pace) % 30, (torch.rand(8, 16, generator=g) > 0.3).float()
    return [{"tokens": tokens[i::count], "weight": weight[i::count]} for i in range(count)]


def share_of(batches: list[dict]) -> float:
    return float(sum(batch["weight"].sum() for batch in batches))


def alone(name: str, stages: int) -> tuple[list[list[float]], float]:
    """Loss and gradient norm of each step on one process, and a loss afterwards."""
    o, facts = objective(name, stages).train(), []
    optimizer = torch.optim.AdamW(o.parameters(), lr=1e-2)
    for step in range(STEPS):
        total, share = 0.0, share_of(micro(step, stages))
        for batch in micro(step, stages):
            loss, _ = o(batch)
            (loss / share).backward()
            total += float(loss.detach())
        norm = torch.nn.utils.get_total_norm([p.grad for p in o.parameters()])
        facts.append([total / share, float(norm)])
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return facts, float(sum(o.eval()(batch)[0] for batch in micro(99)))


def staged(cases: dict[str, str]) -> dict:
    """The same on the stages of this process's group; the gathered weights are scored by a whole model."""
    found, stages = {}, dist.get_world_size()
    for name, schedule in cases.items():
        o, facts = objective(name, stages).train(), []
        whole = set(o.state_dict())
        pipeline = Pipeline(o, schedule=schedule)
        assert set(o.state_dict()) < whole
        optimizer = torch.optim.AdamW(o.parameters(), lr=1e-2)
        for step in range(STEPS):
            share = share_of(micro(step))
            loss = float(pipeline.backward(micro(step, stages), share)["loss"])
            grads = [p.grad for p in o.parameters() if not (pipeline.rank and p is pipeline.twin)]
            square = torch.nn.utils.get_total_norm(grads).square()
            dist.all_reduce(square)                            # a tied table counts once
            facts.append([loss / share, float(square.sqrt())])
            optimizer.step()
            optimizer.zero_grad()
        named = dict(o.named_parameters())
        moments = pipeline.gather({f"{n}:exp_avg": optimizer.state[p]["exp_avg"] for n, p in named.items()})
        state = pipeline.gather(dict(o.state_dict()))
        o.eval()
        found[name] = {"facts": facts, "evaluated": float(pipeline.evaluate(micro(99))["loss"])}
        if dist.get_rank() == 0:
            fresh = objective(name, stages).eval()
            fresh.load_state_dict(state)
            assert {n.partition(":")[0] for n in moments} == {n for n, _ in fresh.named_parameters()}
            with torch.no_grad():
                found[name]["whole"] = float(sum(fresh(batch)[0] for batch in micro(99)))
        full = objective(name, stages)
        torch.manual_seed(7)
        for p in full.parameters():
            torch.nn.init.normal_(p)
        o.load_state_dict(pipeline.own(dict(full.state_dict())))        # strict: a stage's names, no more, no fewer
        mine = pipeline.own({f"{n}:m": p for n, p in full.named_parameters()})
        assert {n.partition(":")[0] for n in mine} == set(named)
        found[name]["owned"] = sum(float(t.detach().double().sum()) for t in o.state_dict().values())
    return found


def go_on(mesh: str, folder: str, stop: int) -> list[float]:
    """The losses of one run's steps from its newest checkpoint, if any, up to `stop`, and a checkpoint there."""
    trainer = trainer_of(mesh, "llama", folder=Path(folder), micro=4, guard=False)
    assert trainer.resume() == (stop > 4)
    losses = []
    while trainer.step < stop:
        losses.append(trainer.update(trainer.source(trainer.step))["loss"])
        trainer.step += 1
    trainer.save(wait=True)
    return losses


def both(cases: dict[str, str], folder: str) -> dict:
    return {**staged(cases), "resumed": go_on("pp=2", folder, 8)}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[float]]:
    """What two stages found, and the losses of a run on one, two and one process in turn."""
    folder = tmp_path_factory.mktemp("two")
    before = go_on("", str(folder / "run"), 4)
    ranks = spawned(2, both, folder, CASES, str(folder / "run"))
    return ranks, [*before, *ranks[0]["resumed"], *go_on("", str(folder / "run"), 12)]


@pytest.fixture(scope="module")
def two(resumed: tuple[list[dict], list[float]]) -> list[dict]:
    return resumed[0]


def test_a_run_goes_on_in_stages_and_back_in_one_process(resumed, tmp_path):
    whole = go_on("", str(tmp_path), 4) + go_on("", str(tmp_path), 12)
    assert resumed[1] == pytest.approx(whole, abs=1e-5) and len(whole) == 12


def agree(name: str, ranks: list[dict]) -> None:
    """Every rank saw the run of one process."""
    facts, after = alone(name, len(ranks))
    assert facts[-1][0] < facts[0][0] - 1
    for rank in ranks:
        for (loss, norm), (one_loss, one_norm) in zip(rank[name]["facts"], facts, strict=True):
            assert abs(loss - one_loss) < 1e-5 and norm == pytest.approx(one_norm, rel=1e-4)
        assert rank[name]["evaluated"] == pytest.approx(after, rel=1e-4)
    assert ranks[0][name]["whole"] == pytest.approx(ranks[0][name]["evaluated"], rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_stages_are_one_process(name, two):
    agree(name, two)


@pytest.mark.slow
def test_four_stages_are_one_process(tmp_path):
    ranks = spawned(4, staged, tmp_path, CASES)
    for name in CASES:
        agree(name, ranks)


def test_a_checkpoint_of_one_process_is_dealt_out_whole(two):
    full = objective("llama")
    torch.manual_seed(7)
    for p in full.parameters():
        torch.nn.init.normal_(p)
    whole = sum(float(t.double().sum()) for t in full.state_dict().values())
    assert sum(rank["llama"]["owned"] for rank in two) == pytest.approx(whole, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "world"), [("pp=2,tp=2", 4), ("pp=2,dp=2", 4), ("pp=2,tp=2,dp=2", 8)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tensor_by_pipeline_by_data_gives_the_loss_curve_of_one_process(mesh, world, family, tmp_path):
    """Megatron-Turing NLG's three axes, 50 steps of the real trainer; the gradient norms too."""
    train = {"steps": STEPS, "micro": 2, "optimizer": "adamw"}
    alone, ranks = run("", family, **train), spawned(world, run_mesh, tmp_path, mesh, family, train)
    assert all(numbers == ranks[0] for numbers in ranks) and len(ranks[0]) == 2 * STEPS
    assert max(abs(a - b) for a, b in zip(ranks[0][::2], alone[::2], strict=True)) < 1e-5
    assert ranks[0][1::2] == pytest.approx(alone[1::2], rel=1e-3) and alone[-2] < alone[0] - 0.5


def run_mesh(mesh: str, family: str, train: dict) -> list[float]:
    return run(mesh, family, **train)


def scarce() -> str:
    try:
        Pipeline(objective("llama")).backward(micro(0, 1), 1.0)
    except RequestError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_too_few_micro_batches_for_1f1b_are_refused_on_every_stage(tmp_path: Path):
    assert ["1 for pp=2; set train.micro lower" in said for said in spawned(2, scarce, tmp_path)] == [True, True]


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "palm", "starcoder2", "mixtral", "llama4"])
def test_the_stages_of_every_decoder_make_its_logits(family):
    entry = registry.load("models", family)
    shape = {"vocab": 30, "dim": 32, "layers": 2, "heads": 4, "context": 16}
    extra = {"hidden": 32, "experts": 4, "groups": 2} if family in ("mixtral", "llama4") else {}
    extra |= {"head_dim": 8, "dense_hidden": 64} if family == "llama4" else {}
    torch.manual_seed(0)
    whole = entry.Model(entry.Config(**shape, **extra)).eval()
    for p in whole.parameters():
        torch.nn.init.normal_(p, std=0.2)
    first, last = (copy.deepcopy(whole) for _ in range(2))
    cut(first, 0, 2)
    cut(last, 1, 2)
    tokens = torch.randint(30, (2, 9))
    with torch.no_grad():
        first(tokens=tokens)
        last.get_submodule("embed").x = first.get_submodule("norm").x
        assert torch.equal(last(tokens=tokens), whole(tokens=tokens))


def test_every_stage_has_its_blocks_under_their_own_names():
    names = []
    for stage in range(2):
        model = objective("gpt2").model
        cut(model, stage, 2)
        names.append(set(model.state_dict()))
    whole = set(objective("gpt2").model.state_dict())
    assert names[0] | names[1] == whole and not names[0] & names[1]
    assert {"embed.weight", "place.weight", "blocks.0.norm1.weight"} < names[0]
    assert {"blocks.1.norm1.weight", "norm.weight", "head.weight"} < names[1]


@pytest.mark.parametrize(("model", "stages", "says"), [
    (lambda: objective("llama", 4).model, 3, "4 layers do not divide into pp=3 stages; pp may be 1, 2, 4"),
    (lambda: bert.Model(bert.Config(vocab=30, dim=32, layers=2, heads=4, positions=16)), 2, "cannot be cut"),
    (lambda: lstm.Model(lstm.Config(vocab=30, dim=32, hidden=32, layers=2)), 2, "cannot be cut")])
def test_what_cannot_be_cut_is_refused_in_one_line(model, stages, says):
    with pytest.raises(RequestError, match=says):
        layers_of(model(), stages)
