"""Schedule-free AdamW beside algorithm 1 of the paper, written down in float64, and its three points."""
import numpy as np
import pytest
import torch
from torch import nn

from meristem.core.run import Train
from meristem.train.optim import Optimizer, schedule
from meristem.train.schedule_free import EPS, ScheduleFree

RATES = [0.01, 0.02, 0.03, 0.03, 0.03, 0.0, 0.03]              # a rise, and a step at rate 0


def gradients(count: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.randn(4, 5, generator=g) for _ in range(count)]


def algorithm(start: np.ndarray, grads: list[np.ndarray], beta1: float, beta2: float,
              decay: float) -> tuple[np.ndarray, ...]:
    """(x, y, z): Defazio et al. 2024, algorithm 1, line by line; y is where the next gradient is taken."""
    z, x, v, total = start.copy(), start.copy(), np.zeros_like(start), 0.0
    for t, (g, lr) in enumerate(zip(grads, RATES, strict=True), 1):
        y = (1 - beta1) * z + beta1 * x
        v = beta2 * v + (1 - beta2) * g * g
        z = z - lr * (g / (np.sqrt(v / (1 - beta2**t)) + EPS) + decay * y)
        total += lr * lr
        c = lr * lr / total
        x = (1 - c) * x + c * z
    return x, (1 - beta1) * z + beta1 * x, z


@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 0.0), (0.9, 0.5), (0.6, 0.1)])
def test_it_is_algorithm_one(beta1, decay):
    start, grads = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), gradients(len(RATES))
    p = nn.Parameter(start.clone())
    optimizer = ScheduleFree([p], lr=1.0, betas=(beta1, 0.95), weight_decay=decay)
    for grad, lr in zip(grads, RATES, strict=True):
        p.grad, optimizer.param_groups[0]["lr"] = grad.clone(), lr
        optimizer.step()
    x, y, z = (torch.from_numpy(a).float() for a in algorithm(
        start.double().numpy(), [g.double().numpy() for g in grads], beta1, 0.95, decay))
    torch.testing.assert_close(p.detach(), y, rtol=0, atol=2e-6)
    torch.testing.assert_close(optimizer.state[p]["z"], z, rtol=0, atol=2e-6)
    torch.testing.assert_close(optimizer.averages()[p], x, rtol=0, atol=5e-6)
    assert (x - y).abs().max() > 1e-3 and (y - z).abs().max() > 1e-3, "the points are apart, or this proves nothing"


def test_its_rate_rises_and_stays():
    config = Train(optimizer="schedule_free", steps=50, warmup=5)
    assert [schedule(config, s) for s in (0, 4, 5, 49)] == [0.2, 1.0, 1.0, 1.0]


def test_an_evaluation_sees_x_and_leaves_y_and_z_as_they_were():
    module = nn.Linear(4, 3)
    optim = Optimizer(module, Train(optimizer="schedule_free", lr=0.05))
    with optim.averaged():                                     # before the first step there is one point only
        first = module.weight.detach().clone()
    for step in range(5):
        module.weight.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        optim.step(0.05)
    assert not torch.equal(first, module.weight)
    y = module.weight.detach().clone()
    z = optim.state()["weight:z"].clone()
    with pytest.raises(KeyError), optim.averaged():
        torch.testing.assert_close(module.weight.detach(), y + (y - z) * (1 - 0.9) / 0.9, rtol=0, atol=1e-6)
        assert not torch.equal(module.weight, y)
        raise KeyError                                         # an evaluation that fails
    assert torch.equal(module.weight, y) and torch.equal(optim.state()["weight:z"], z)
    last = Optimizer(module, Train(optimizer="schedule_free", weights="last"))
    last.restore({k: v.clone() for k, v in optim.state().items()})
    with last.averaged():
        assert torch.equal(module.weight, y)
