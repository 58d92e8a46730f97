"""DP-SGD: each row's gradient is clipped alone, noise is of the stated size, and the epsilon is the published one."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.objectives.base import Objective
from meristem.plan import privacy
from meristem.train.private import Private, processes_of
from meristem.train.processes import One


class Squares(Objective):
    """0.5 |w - x|^2 of each row: the gradient of row x is w - x."""

    def __init__(self):
        model = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(model.weight)
        super().__init__(model)

    def inputs(self, batch):
        return {}

    def score(self, output, batch):
        raise NotImplementedError

    def weight(self, batch):
        return torch.tensor(float(len(batch["x"])))

    def forward(self, batch):
        return 0.5 * (self.model.weight - batch["x"]).square().sum(), {}


ROWS = torch.tensor([[3.0, 0, 0], [0, 0.5, 0], [0, 0, -8.0], [0, 0, 0.25]])


def test_rows_are_clipped_one_by_one():
    objective = Squares()
    sums = Private(noise=0.0, clip=1.0).backward(objective, [{"x": ROWS[:2]}, {"x": ROWS[2:]}], 4.0)
    expected = -torch.tensor([[1.0, 0.5, -1.0 + 0.25]]) / 4
    torch.testing.assert_close(objective.model.weight.grad, expected, atol=1e-5, rtol=0)
    assert float(sums["loss"]) == pytest.approx(float(0.5 * ROWS.square().sum()))


def test_the_noise_has_its_size():
    torch.manual_seed(0)
    found = []
    for _ in range(400):
        objective = Squares()
        Private(noise=2.0, clip=0.5).backward(objective, [{"x": ROWS}], 4.0)
        found.append(objective.model.weight.grad.clone())
    assert float(torch.cat(found).std(0).mean()) == pytest.approx(2.0 * 0.5 / 4, rel=0.1)


def test_what_cannot_be_combined_is_refused():
    assert type(processes_of(None, Train())) is One
    assert isinstance(processes_of(None, Train(private_noise=1.0, guard=False)), Private)
    with pytest.raises(RequestError, match="guard"):
        processes_of(None, Train(private_noise=1.0))
    many = SimpleNamespace(world=SimpleNamespace(mesh=SimpleNamespace(world=2)))
    with pytest.raises(RequestError, match="one process"):
        processes_of(many, Train(private_noise=1.0, guard=False))


@pytest.mark.parametrize(("noise", "epochs", "epsilon"), [(1.3, 20, 1.34), (0.7, 70, 8.68)])
def test_the_epsilon_is_the_published_one(noise, epochs, epsilon):
    """MNIST, batches of 256 of 60,000, delta 1e-5: Bu et al. 2020, https://doi.org/10.1162/99608f92.cfc5dd25, figure 4.

    The moments accountant of that time gives the figures; today's conversion of RDP is up to 20 % tighter.
    """
    pytest.importorskip("dp_accounting")
    found = privacy.spent(noise, 256, 60_000, epochs * 60_000 // 256)
    assert 0.8 * epsilon <= found.epsilon <= 1.01 * epsilon and found.delta == 1e-5
    with pytest.raises(RequestError, match="must be positive"):
        privacy.spent(0.0, 256, 60_000, 10)
