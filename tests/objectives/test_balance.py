"""Balance losses and biases in the objective: what is added, what is counted, and that loads become even."""
from typing import Any

import pytest
import torch

from meristem.core.run import Train
from meristem.models.mixtral import Config, Model
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.trainer import Trainer

FIELDS: dict[str, Any] = {"vocab": 30, "context": 16, "dim": 32, "layers": 2, "heads": 4, "hidden": 32, "experts": 8,
                          "top_k": 2}


def objective(**fields: Any) -> NextToken:
    """A small mixture, the same at every call but for its fields."""
    torch.manual_seed(0)
    return NextToken(Model(Config(**{**FIELDS, **fields})))


def counting(step: int, rows: int = 16) -> list[dict[str, torch.Tensor]]:
    """Rows that count up from a random start."""
    start = torch.randint(30, (rows, 1), generator=torch.Generator().manual_seed(step))
    return [{"tokens": (start + torch.arange(17)) % 30, "weight": torch.ones(rows, 16)}]


@torch.no_grad()
def skew(o: NextToken) -> NextToken:
    """Routers that send every token to the same two experts."""
    way = torch.randn(32, generator=torch.Generator().manual_seed(5)).sign()
    o.model.embed.weight += 0.02 * way
    for layer in o.routed:
        layer.router.weight[:2] += way / 32**0.5
    return o


def test_the_objective_adds_coefficient_times_balance_for_every_layer_and_target() -> None:
    o, batch = objective(balance_loss=0.5), counting(0)[0]
    batch["weight"][:, :5] = 0
    plain, nothing = objective(balance_loss=0.0), objective(balance_loss=0.5).eval()(batch)
    (loss, facts), (bare, same) = o(batch), plain(batch)
    assert nothing[1] == {} and torch.equal(nothing[0], bare), "evaluation measures the loss alone"
    assert torch.equal(facts["balance"], same["balance"]) and o.routed[0].balance is None
    torch.testing.assert_close(loss - bare, 0.5 * 2 * facts["balance"])
    assert 1 <= float(facts["balance"]) / float(o.weight(batch)) < 4
    loss.backward()
    bare.backward()
    assert o.model.blocks[0].mlp.router.weight.grad.abs().sum() > 0
    assert plain.model.blocks[0].mlp.router.weight.grad.abs().sum() == 0, "experts start at 0: only balance moves it"


def test_micro_batches_change_the_balance_by_the_noise_of_counting() -> None:
    batch = counting(0, rows=64)[0]
    whole = Trainer(objective(balance_loss=1.0), counting, Train(steps=1)).update([batch])
    parts = [{k: v[i:i + 16] for k, v in batch.items()} for i in range(0, 64, 16)]
    split = Trainer(objective(balance_loss=1.0), counting, Train(steps=1)).update(parts)
    tokens, experts = 16 * 16, 8
    assert 0 <= split["balance"] - whole["balance"] < whole["balance"] * (experts - 1) / tokens
    assert split["loss"] - whole["loss"] == pytest.approx(2 * (split["balance"] - whole["balance"]), abs=1e-4)


@pytest.mark.parametrize(("fields", "even"), [({"balance_loss": 0.0}, False), ({"balance_loss": 0.05}, True),
                                              ({"balance_loss": 0.0, "balance_rate": 0.01}, True)])
def test_both_ways_of_balancing_even_the_load_while_the_model_learns(fields: dict[str, float], even: bool) -> None:
    o, facts = skew(objective(**fields)), []
    Trainer(o, counting, Train(steps=60, batch=16, context=16, lr=3e-3, warmup=5),
            hooks=[lambda t, f: facts.append(f)]).fit()
    with torch.no_grad():
        o(counting(1000, rows=128)[0])
    loads = torch.stack([layer.counted for layer in o.routed]).float()
    worst = float((loads.amax(1) / loads.mean(1)).max())       # 1 is even, 4 is all tokens on two experts
    assert facts[0]["balance"] > 3.5 and facts[-1]["loss"] < 1.0
    assert (worst < 1.8 and loads.min() > 0) if even else (worst > 3 and loads.min() == 0), loads


def test_loss_free_runs_resume_in_the_same_bits(tmp_path) -> None:
    config = Train(steps=8, batch=16, context=16, lr=5e-3, warmup=2, save_seconds=1e9)
    unbroken = objective(balance_rate=0.01)
    Trainer(unbroken, counting, config).fit()
    with Checkpoints(tmp_path) as checkpoints:
        first = Trainer(objective(balance_rate=0.01), counting, config, checkpoints=checkpoints)
        for first.step in range(4):
            first.update(counting(first.step))
        first.step = 4
        first.save(wait=True)
    with Checkpoints(tmp_path) as checkpoints:
        second = Trainer(objective(balance_rate=0.01), counting, config, checkpoints=checkpoints)
        assert second.resume()
        second.fit()
    ends, state = unbroken.state_dict(), second.objective.state_dict()
    assert float(ends["model.blocks.0.mlp.bias"].abs().max()) > 0
    assert all(torch.equal(state[name], tensor) for name, tensor in ends.items())


def test_a_skipped_step_leaves_no_count_behind() -> None:
    o, batch = objective(balance_rate=0.01), counting(0)[0]
    batch["weight"] *= float("nan")
    assert Trainer(o, counting, Train(steps=1)).update([batch])["skipped"]
    assert all(layer.counted is None and not layer.bias.any() for layer in o.routed)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns_in_bfloat16(kind: str) -> None:
    o = objective()
    compute_in(o.model, torch.bfloat16)
    lr = 1e-2 if kind == "adamw" else 5e-3
    facts = Trainer(o, counting, Train(steps=60, batch=16, context=16, lr=lr, warmup=5, optimizer=kind)).fit()
    assert facts["loss"] < 0.7
