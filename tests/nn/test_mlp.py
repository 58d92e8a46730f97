"""Feed-forward layers against written-out formulas: values and gradients of every activation."""
import pytest
import torch
from torch.nn import functional as F

from meristem.nn.mlp import ACTIVATIONS, MLP, GatedMLP

X = torch.tensor([-2.0, -0.0, 0.0, 0.5, 3.0, float("inf")])


def test_relu_has_the_values_and_gradients_of_torch() -> None:
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, 6.0])
    for x, call in ((ours, ACTIVATIONS["relu"]), (theirs, F.relu)):
        y = call(x)
        (y[:5] * weight[:5]).sum().backward()
        assert torch.equal(y, F.relu(X))
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.tolist() == [0, 0, 0, -4, 5, 0]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_gradients_are_those_of_differences(name: str) -> None:
    """Of every activation, away from the corner of relu."""
    x = torch.tensor([-1.5, -0.3, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS[name], (x,))


def test_layers_are_their_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    plain, gated = MLP(8, 16, "relu"), GatedMLP(8, 16)
    want = F.linear(F.relu(F.linear(x, plain.up.weight, plain.up.bias)), plain.down.weight, plain.down.bias)
    assert torch.equal(plain(x), want)
    want = F.linear(F.silu(F.linear(x, gated.gate.weight)) * F.linear(x, gated.up.weight), gated.down.weight)
    assert torch.equal(gated(x), want)
