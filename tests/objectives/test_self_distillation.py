"""Self-distillation: its losses by hand, the teacher that follows, views named by the step, and the collapse alarm."""
import math

import pytest
import torch

from meristem.core.errors import MachineError, RequestError
from meristem.core.run import Train
from meristem.models import vit
from meristem.objectives import self_distillation
from meristem.objectives.base import make
from meristem.objectives.self_distillation import (
    STUDENT,
    Head,
    SelfDistillation,
    Standard,
    balanced,
    spread_out,
    views_loss,
)
from meristem.train.trainer import Trainer

CONFIG = vit.Config(kind="dinov2", image=16, patch=4, dim=32, layers=1, heads=2)
SMALL = {"prototypes": 16, "hidden": 32, "narrow": 8, "local": 2}


def objective(**fields) -> SelfDistillation:
    torch.manual_seed(0)
    return make("self_distillation", vit.Model(CONFIG), {**SMALL, **fields})


def source(step: int, rows: int = 12):
    numbers = torch.Generator().manual_seed(step % 4)
    return [{"images": torch.randint(0, 256, (rows, 3, 16, 16), generator=numbers, dtype=torch.uint8)}]


def trained(asked: SelfDistillation, steps: int, **fields) -> Trainer:
    t = Train(**{"steps": steps, "lr": 1e-3, "warmup": 1, "dtype": "float32", "guard": False, **fields})
    trainer = Trainer(asked, source, t)
    trainer.fit()
    return trainer


def test_sinkhorn_balances_rows_and_prototypes() -> None:
    logits = 5 * torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    real = (torch.arange(60) % 3 > 0).float()
    q = balanced(logits, real, rounds=50)
    torch.testing.assert_close(q.sum(1), real)
    torch.testing.assert_close(q.sum(0), torch.full((6,), 40 / 6), rtol=1e-3, atol=0)
    assert torch.equal(q[real == 0], torch.zeros(20, 6))
    torch.testing.assert_close(q[real > 0], balanced(logits[real > 0], torch.ones(40), rounds=50))


def test_a_standard_head_tells_like_vectors_apart() -> None:
    x = 1 + 0.01 * torch.randn(40, 32, generator=torch.Generator().manual_seed(2))
    for standard, spread in ((False, 0.1), (True, 0.1)):
        torch.manual_seed(0)
        said = Head(32, 64, 8, 16, standard)(x)
        assert said.shape == (40, 16) and (said.std(0).mean() > spread) == standard
    torch.testing.assert_close(Standard()(x).mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(Standard()(x.view(4, 10, 32)), Standard()(x).view(4, 10, 32), atol=1e-4, rtol=0)


def test_a_view_is_compared_with_every_other() -> None:
    generator = torch.Generator().manual_seed(0)
    target, said = torch.rand(3, 2, 5, generator=generator).softmax(-1), torch.randn(3, 4, 5, generator=generator)
    by_hand = torch.zeros(3)
    for row in range(3):
        terms = [-(target[row, g] * (said[row, v] / STUDENT).log_softmax(-1)).sum()
                 for g in range(2) for v in range(4) if g != v]
        by_hand[row] = sum(terms) / len(terms)
    torch.testing.assert_close(views_loss(target, said), by_hand)


def test_koleo_is_the_log_of_the_nearest_distance() -> None:
    angles = torch.tensor([0.0, 0.1, 1.0, 1.3])
    x = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([1.0, 5.0, 2.0, 1.0])[:, None]
    nearest = [0.1, 0.1, 0.3, 0.3]
    assert float(spread_out(x)) == pytest.approx(-sum(math.log(2 * math.sin(a / 2)) for a in nearest), rel=1e-4)
    assert float(spread_out(x[:1])) == 0


def test_a_hidden_patch_teaches_and_an_open_one_does_not() -> None:
    asked = objective(koleo=0.0)
    torch.manual_seed(1)
    batch = asked.prepare(source(0)[0])
    output = asked.output(batch)
    _, facts = asked.score(output, batch)
    assert facts["ibot"] > 0
    noise = torch.randn(output["patch"].shape)
    changed = {**output, "patch": output["patch"] + noise * ~batch["masked"][..., None]}
    assert torch.equal(asked.score(changed, batch)[1]["ibot"], facts["ibot"])
    changed = {**output, "patch": output["patch"] + noise}
    assert not torch.equal(asked.score(changed, batch)[1]["ibot"], facts["ibot"])


def test_the_teacher_follows_and_is_not_trained() -> None:
    asked = objective(momentum=0.9)
    assert not any(p.requires_grad for p in asked.teacher.parameters())
    before = asked.teacher["model"].cls.clone()
    with torch.no_grad():
        asked.model.cls += 1.0
    asked.seen = torch.zeros(2, 16), torch.tensor(1.0)
    asked.after_step(1000)
    torch.testing.assert_close(asked.teacher["model"].cls, before + 0.1)
    asked.seen = torch.zeros(2, 16), torch.tensor(1.0)
    asked.after_step(0)                                        # a tenth is kept of what was not trained at all
    torch.testing.assert_close(asked.teacher["model"].cls, before + 0.1 + 0.9 * 0.9)


def test_views_are_a_function_of_the_step() -> None:
    one, two = trained(objective(), 3), trained(objective(), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.objective.state_dict().values(),
                                                 two.objective.state_dict().values(), strict=True))
    torch.manual_seed(5)
    first = objective().prepare(source(0)[0])
    torch.manual_seed(5)
    again = objective().prepare(source(0)[0])
    assert all(torch.equal(first[key], again[key]) for key in first) and {"views", "small", "masked"} <= first.keys()


@pytest.mark.parametrize("centre", ["sinkhorn", "mean"])
def test_training_learns_and_stays_spread(centre: str) -> None:
    asked = objective(centre=centre, momentum=0.9)
    first, facts = trained(objective(centre=centre, momentum=0.9), 1).facts, trained(asked, 30).facts
    assert facts["spread"] > 0.05 and facts["dino"] < 0.95 * first["dino"] and facts["ibot"] < first["ibot"]
    assert (asked.middle.abs().sum() > 0) and int(asked.flat) == 0


def test_a_collapse_ends_the_run_with_a_line_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_distillation, "PATIENCE", 12)
    asked = objective(centre="none", koleo=0.0)
    with torch.no_grad():                                      # every picture gets one vector from now on
        for model in (asked.model, asked.teacher["model"]):
            model.norm.weight.zero_()
            model.norm.bias.fill_(1.0)
    for p in asked.model.norm.parameters():
        p.requires_grad_(False)
    trainer = Trainer(asked, lambda step: source(step, 2), Train(steps=20, lr=1e-4, dtype="float32",
                                                                 guard=False))
    with pytest.raises(MachineError, match="collapsed at step 12"):
        trainer.fit()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RequestError, match="model.kind=dinov2"):
        make("self_distillation", vit.Model(vit.Config(image=16, patch=4, dim=32, layers=1, heads=2)), {})
    with pytest.raises(RequestError, match="momentum=1.5"):
        objective(momentum=1.5)
    with pytest.raises(RequestError, match="turm"):
        objective(look={"turm": 1.0})


def test_prototypes_wait_until_there_is_something_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for frozen, moved in ((3, False), (2, True)):
        monkeypatch.setattr(self_distillation, "FROZEN", frozen)
        asked = objective()
        before = asked.heads["cls"].prototypes.detach().clone()
        trained(asked, 3)
        assert torch.equal(asked.heads["cls"].prototypes, before) != moved
