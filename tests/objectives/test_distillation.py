"""Distillation: Hinton's loss by hand, a teacher that nothing trains or saves, and a student that follows it."""
from pathlib import Path

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.hub import hf
from meristem.models import llama, lstm, t5
from meristem.nn.linear import compute_in
from meristem.objectives.distillation import Distillation
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.trainer import Trainer
from tests.models import parity

SMALL = {"vocab": 30, "dim": 16, "layers": 1, "heads": 2, "context": 16}


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    config, module = parity.ours("llama", **{**SMALL, "layers": 2})
    hf.save(tmp_path / "teacher", "llama", config, module)
    return str(tmp_path / "teacher")


def student(**fields) -> llama.Model:
    torch.manual_seed(5)
    return llama.Model(llama.Config(**{**SMALL, **fields}))


def batch(step: int = 0) -> dict:
    g = torch.Generator().manual_seed(step)
    weight = (torch.rand(4, 16, generator=g) > 0.3).float()
    return {"tokens": torch.randint(30, (4, 17), generator=g), "weight": weight}


@pytest.mark.parametrize(("temperature", "alpha", "cosine"), [(2.0, 0.5, 0.0), (4.0, 1.0, 0.0), (1.0, 0.3, 2.0)])
def test_the_loss_by_hand(teacher: str, temperature: float, alpha: float, cosine: float) -> None:
    model, b = student(), batch()
    o = Distillation(model, teacher, temperature, alpha, cosine)
    model(b["tokens"][:2])                                     # what others ask of the model is no part of it
    loss, facts = o(b)
    assert not o.seen
    big, tokens = hf.load(teacher).module, b["tokens"][:, :-1]
    p = (big(tokens) / temperature).softmax(-1)
    q = (model(tokens) / temperature).softmax(-1)
    soft = temperature**2 * ((p * (p.log() - q.log())).sum(-1) * b["weight"]).sum()
    hard, _ = NextToken(model)(b)
    far = ((1 - torch.cosine_similarity(model.features(tokens), big.features(tokens), -1)) * b["weight"]).sum()
    torch.testing.assert_close(loss, alpha * soft + (1 - alpha) * hard + cosine * far, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(facts["soft"], soft, rtol=1e-4, atol=1e-3)
    assert ("cosine" in facts) == (cosine > 0)
    assert float(o.weight(b)) == float(b["weight"].sum())


def test_its_own_teacher_has_nothing_to_say(tmp_path: Path) -> None:
    config, module = parity.ours("llama", **SMALL)
    hf.save(tmp_path / "same", "llama", config, module)
    o = Distillation(module, str(tmp_path / "same"), alpha=1.0, cosine=1.0)
    loss, _ = o(batch())
    assert abs(float(loss.detach())) < 1e-3
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in module.parameters()) < 1e-4


def test_the_teacher_is_neither_trained_nor_saved(teacher: str, tmp_path: Path) -> None:
    model = student()
    o = Distillation(model, teacher)
    assert set(o.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    assert {id(p) for p in o.parameters()} == {id(p) for p in model.parameters()}
    before = hf.identity("llama", o.teacher)
    config = Train(steps=3, batch=4, context=16, lr=1e-2, warmup=1, dtype="float32")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        trainer = Trainer(o, lambda step: [batch(step)], config, checkpoints=checkpoints)
        trainer.fit()
        assert all("held" not in name and "teacher" not in name for name in trainer.optim.named)
        again = Trainer(Distillation(student(dim=16), teacher), lambda step: [batch(step)], config,
                        checkpoints=checkpoints)
        assert again.resume() and all(torch.equal(a, b) for a, b in zip(
            o.state_dict().values(), again.objective.state_dict().values(), strict=True))
    assert hf.identity("llama", o.teacher) == before and not o.teacher.training and o.training
    assert not any(p.requires_grad for p in o.teacher.parameters())


def test_the_student_comes_to_agree_with_its_teacher(teacher: str) -> None:
    """Random ids have nothing to learn but the teacher: the soft loss falls to a part of what it was."""
    soft: list[float] = []
    config = Train(steps=150, batch=4, context=16, lr=2e-2, warmup=5, dtype="float32")
    Trainer(Distillation(student(), teacher, alpha=1.0), lambda step: [batch(step)], config,
            hooks=[lambda t, f: soft.append(f["soft"])]).fit()
    assert sum(soft[-10:]) < 0.5 * sum(soft[:10])


def test_any_family_may_learn_from_any_other_and_text_to_text_too(teacher: str, tmp_path: Path) -> None:
    o = Distillation(lstm.Model(lstm.Config(vocab=30, dim=8, hidden=12, layers=1, context=16)), teacher)
    assert float(o(batch())[1]["soft"].detach()) > 0
    config, module = parity.ours("t5", vocab=300, dim=16, layers=1, heads=2, head_dim=8, hidden=32)
    hf.save(tmp_path / "t5", "t5", config, module)
    torch.manual_seed(0)
    o = Distillation(t5.Model(config), str(tmp_path / "t5"), inner="span_corruption", fields={"span": 2.0})
    made = o.prepare({"tokens": torch.randint(1, 200, (2, 41)), "weight": torch.ones(2, 40)})
    loss, facts = o(made)
    assert o.inner.span == 2.0 and float(o.weight(made)) == made["weight"].numel()
    assert torch.isfinite(loss) and facts["soft"] > 0 and facts["hard"] > 0


def test_the_teacher_computes_as_its_student_does(teacher: str) -> None:
    o = Distillation(compute_in(student(), torch.bfloat16), teacher)
    assert o.teacher(batch()["tokens"]).dtype == torch.bfloat16


def test_what_does_not_fit_is_said(teacher: str) -> None:
    for fields, words in (({}, "objective.teacher=FOLDER"), ({"teacher": teacher, "alpha": 2.0}, r"alpha=2.0 in \[0"),
                          ({"teacher": teacher, "inner": "next_tokens"}, "did you mean next_token"),
                          ({"teacher": teacher, "fields": {"densty": 1}}, "no field 'densty' in objective next_token")):
        with pytest.raises(RequestError, match=words):
            Distillation(student(), **fields)
    with pytest.raises(RequestError, match="30 tokens, the student 31"):
        Distillation(student(vocab=31), teacher)
