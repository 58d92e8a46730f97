"""What an objective says of its FLOPs is what torch counts while it prepares, looks forward and goes back."""
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from meristem.hub import hf
from meristem.models import llama, vit
from meristem.objectives.base import Objective, make
from meristem.plan.cost import Cost, flops_of
from tests.objectives import policies

SHAPE = {"vocab": 64, "context": 32, "dim": 32, "layers": 2, "heads": 4}      # one chunk of attention: the whole square


def counted(objective: Objective, batch: dict[str, torch.Tensor], prepare: bool = True) -> int:
    """FLOPs of one step on a batch."""
    objective.train()
    torch.manual_seed(0)
    batch = batch if prepare else objective.prepare(batch)
    with FlopCounterMode(display=False) as counter:
        loss, _ = objective(objective.prepare(batch) if prepare else batch)
        loss.backward()
    return counter.get_total_flops()


def forward(length: int, asked: int = 0):
    """FLOPs of a row of tokens."""
    def of(network: torch.nn.Module) -> float:
        cost = Cost.of(network, length, 0, asked)
        return (cost.linear_flops + cost.attention_flops) * length
    return of


@pytest.mark.parametrize("fields", [{"layers": 2}, {"layers": 6, "dim": 64}])
def test_a_teacher_is_counted(tmp_path: Path, fields: dict) -> None:
    config = llama.Config(**{**SHAPE, **fields})
    hf.save(tmp_path / "teacher", "llama", config, llama.Model(config))
    objective = make("distillation", llama.Model(llama.Config(**SHAPE)), {"teacher": str(tmp_path / "teacher")})
    tokens = torch.randint(64, (3, 33), generator=torch.Generator().manual_seed(0))
    found = counted(objective, {"tokens": tokens, "weight": torch.ones(3, 32)})
    assert found == pytest.approx(3 * objective.flops(forward(32)), rel=0.01)
    assert objective.flops(forward(32)) > 1.3 * Objective.flops(objective, forward(32))


@pytest.mark.parametrize(("name", "fields"), [("grpo", {}), ("grpo", {"beta": 0.1}),
                                              ("ppo", {"epochs": 1, "beta": 0.05})])
def test_a_policy_s_answers_are_counted_one_by_one(name: str, fields: dict) -> None:
    objective = policies.of(name, **fields)
    batch = policies.questions(objective)(0)[0]
    of, prompts = forward(batch["tokens"].shape[1] - 1, objective.length), len(batch["tokens"])
    said = prompts * objective.flops(of)
    drawn = prompts * objective.group * of(objective.model)    # counted as whole rows, which is too much
    assert said - drawn < 1.02 * counted(objective, batch) < 1.04 * said
    more = policies.of(name, **{**fields, "epochs": 3, "minibatches": 2})
    assert more.flops(of) / objective.flops(of) == pytest.approx(
        (2 + len(more.beside) + 9) / (2 + len(more.beside) + 3) / 6)


def test_the_views_of_self_distillation_are_counted() -> None:
    model = vit.Model(vit.Config(kind="dinov2", image=16, patch=4, dim=64, layers=2, heads=2))
    objective = make("self_distillation", model, {"prototypes": 8, "hidden": 8, "narrow": 8, "local": 2})
    batch = {"images": torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)}
    given = objective.inputs(objective.prepare({"images": batch["images"][:1]}))
    found = counted(objective, batch, prepare=False)
    assert found == pytest.approx(2 * objective.flops(lambda network: flops_of(network, given)), rel=0.1)
