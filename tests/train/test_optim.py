"""Optimizers: the orthogonaliser, who takes which parameter, schedules, and a state that survives as named tensors."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.run import Train
from meristem.models.llama import Config, Model
from meristem.objectives.next_token import NextToken
from meristem.train.optim import Muon, Optimizer, orthogonal, schedule


def small() -> NextToken:
    torch.manual_seed(0)
    return NextToken(Model(Config(vocab=40, dim=32, layers=2, heads=4, groups=2, context=16)))


def gradients(objective, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in objective.parameters():
        p.grad = torch.randn(p.shape, generator=g) * 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 24), st.integers(0, 40), st.floats(1e-4, 1e4))
def test_orthogonal_pulls_every_singular_value_towards_one(rows, more, size):
    got = orthogonal(torch.randn(2, rows, rows + more + 8, generator=torch.Generator().manual_seed(rows)) * size)
    values = torch.linalg.svdvals(got)
    assert values.min() > 0.5 and values.max() < 1.35


def test_orthogonal_keeps_the_directions():
    matrix = torch.randn(1, 12, 30)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal(matrix).flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_muon_moves_as_torch_muon_does():
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 20)) for _ in range(2))
    a = Muon([ours], lr=0.02, momentum=0.95, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        grad = torch.randn(8, 20, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)          # both orthogonalise in bf16


def test_muon_takes_the_kernels_of_a_convolution_as_one_matrix():
    torch.manual_seed(0)
    kernels = torch.nn.Parameter(torch.randn(6, 4, 3, 3))
    flat, stacked = torch.nn.Parameter(kernels.detach().flatten(1)), torch.nn.Parameter(torch.randn(1, 4, 4, 6))
    gradient, before = torch.randn(6, 4, 3, 3), stacked.detach().clone()
    kernels.grad, flat.grad, stacked.grad = gradient, gradient.flatten(1), torch.randn(1, 4, 4, 6)
    Muon([kernels, flat, stacked], lr=0.02).step()
    assert torch.equal(kernels.flatten(1), flat)               # a table of places on a grid is no convolution
    moves = torch.linalg.svdvals((stacked.detach() - before)[0] / (0.02 * 0.2 * 6**0.5))
    assert moves.shape == (4, 4) and float(moves.min()) > 0.5 and float(moves.max()) < 1.3


def test_muon_takes_the_matrices_and_adamw_the_rest():
    objective = small()
    adam, muon = Optimizer(objective, Train(optimizer="muon")).parts
    names = {id(p): n for n, p in objective.named_parameters()}
    of = {kind: {names[id(p)] for g in part.param_groups for p in g["params"]}
          for kind, part in (("adam", adam), ("muon", muon))}
    assert of["adam"] | of["muon"] == set(names.values()) and not of["adam"] & of["muon"]
    assert of["muon"] == {n for n in names.values() if ".blocks." in n and "norm" not in n}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor", "schedule_free"])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind, ema):
    config = Train(optimizer=kind, ema=ema)
    first = small()
    optim = Optimizer(first, config)
    for step in range(3):
        gradients(first, step)
        optim.step(1e-2)
    state = {k: v.clone() for k, v in optim.state().items()}
    second = small()
    second.load_state_dict(first.state_dict())
    other = Optimizer(second, config)
    gradients(second, 5)
    other.step(1e-2)                                           # a past that must leave nothing
    second.load_state_dict(first.state_dict())
    other.restore(state)
    assert state.keys() == other.state().keys()
    assert all(torch.equal(value, other.state()[key]) for key, value in state.items())
    for objective, o in ((first, optim), (second, other)):
        gradients(objective, 9)
        o.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(value, other.state()[key]) for key, value in optim.state().items())


def test_going_back_to_the_first_step_leaves_no_moments():
    objective = small()
    optim = Optimizer(objective, Train(ema=0.9))
    gradients(objective, 0)
    optim.step(1e-2)
    assert optim.state()
    optim.restore({})
    assert not optim.state() and optim.updates == 0


def test_the_average_of_weights_by_hand_and_only_where_it_is_wanted():
    objective, last = small(), small()
    optim, other = Optimizer(objective, Train(ema=0.75)), Optimizer(last, Train(ema=0.75, weights="last"))
    mean = None
    for step in range(30):                                     # the decay rises: 2/11, 3/12, ... 0.75 from step 26 on
        for o, module in ((optim, objective), (other, last)):
            gradients(module, step)
            o.step(1e-2)
        now = objective.model.head.weight.detach()
        decay = min(0.75, (step + 2) / (step + 11))
        mean = now.clone() if mean is None else decay * mean + (1 - decay) * now
    after = now.clone()
    with optim.averaged(), other.averaged():
        torch.testing.assert_close(objective.model.head.weight.detach(), mean)
        assert not torch.equal(objective.model.head.weight, after) and torch.equal(last.model.head.weight, after)
    assert torch.equal(objective.model.head.weight, after)


def test_only_matrices_and_tables_decay():
    objective = small()
    for p in objective.parameters():
        p.grad = torch.zeros_like(p)
    before = {n: p.clone() for n, p in objective.named_parameters()}
    Optimizer(objective, Train(weight_decay=0.5)).step(0.1)
    for name, p in objective.named_parameters():
        torch.testing.assert_close(p, before[name] * (0.95 if p.ndim > 1 else 1.0), msg=name)


def test_schedules_rise_hold_and_fall():
    cosine = [schedule(Train(steps=100, warmup=10, floor=0.1), s) for s in range(100)]
    wsd = [schedule(Train(steps=100, warmup=10, floor=0.0, schedule="wsd", decay=0.2), s) for s in range(100)]
    assert cosine[:10] == wsd[:10] == [(s + 1) / 10 for s in range(10)]
    assert cosine[10] == 1 and cosine[-1] == pytest.approx(0.1, abs=1e-3)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert set(wsd[10:80]) == {1.0} and wsd[-1] == 0 and wsd[80] == pytest.approx(0.95)


def test_cosine_is_torchs_and_a_long_fall_begins_where_the_rise_ends():
    config = Train(steps=60, warmup=12, floor=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=48, eta_min=0.1)
    for step in range(12, 60):
        assert schedule(config, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        oracle.step()
    long = [schedule(Train(steps=60, warmup=12, floor=0.0, schedule="wsd", decay=1.0), s) for s in range(60)]
    assert long[11] == 1 and long[12:] == pytest.approx([1 - (n + 1) / 48 for n in range(48)]), "a cliff"
    assert schedule(Train(steps=5, warmup=9, schedule="wsd"), 4) == 5 / 9


def test_nothing_to_train_is_said():
    with pytest.raises(ValueError, match="no parameter is trainable"):
        Optimizer(small().requires_grad_(False), Train())
