"""Adafactor beside both oracles, the paper's formulas by hand, and the places where torch's own goes wrong."""
import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor as TransformersAdafactor

from meristem.train.adafactor import LEAST, Adafactor


def gradients(shape: tuple[int, ...], size: float = 0.3, steps: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(len(shape))
    return [size * torch.randn(shape, generator=g) for _ in range(steps)]


def start(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(7)))


def run(optimizer: torch.optim.Optimizer, p: nn.Parameter, grads: list[torch.Tensor]) -> torch.Tensor:
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


def of_transformers(p: nn.Parameter, lr: float) -> torch.optim.Optimizer:
    return TransformersAdafactor([p], lr=lr, relative_step=False, scale_parameter=True, warmup_init=False)


@pytest.mark.parametrize("size", [0.3, 1e-5])
@pytest.mark.parametrize("shape", [(6, 10), (3, 6, 10), (8,)])
def test_it_moves_as_transformers_adafactor_does(shape, size):
    ours, theirs = start(shape), start(shape)
    a = run(Adafactor([ours], lr=0.02), ours, gradients(shape, size))
    b = run(of_transformers(theirs, 0.02), theirs, gradients(shape, size))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert (a - start(shape)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(6, 10), (3, 6, 10), (8,)])
def test_with_gradients_of_usual_size_it_moves_as_torch_adafactor_does_decay_included(shape):
    ours, theirs = start(shape), start(shape)
    a = run(Adafactor([ours], lr=0.02, weight_decay=0.5), ours, gradients(shape))
    b = run(torch.optim.Adafactor([theirs], lr=0.02, weight_decay=0.5), theirs, gradients(shape))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_first_steps_by_hand():
    """beta2 is 0 in the first step, so the estimate is this gradient's own: a rank-one gradient moves by its sign."""
    p, signs = start((4, 5)), torch.tensor([1.0, -1.0, 1.0, 1.0])[:, None]
    grad, before = signs * torch.arange(1.0, 6.0), p.detach().clone()
    run(Adafactor([p], lr=0.01), p, [grad])
    size = before.square().mean().sqrt()
    torch.testing.assert_close(before - p, 0.01 * size * signs.expand(4, 5))
    small = nn.Parameter(torch.zeros(4, 5))                    # one that starts at zero moves all the same
    run(Adafactor([small], lr=0.01), small, [grad])
    torch.testing.assert_close(small.detach(), -0.01 * LEAST * signs.expand(4, 5))


def test_rows_that_were_never_seen_stay_where_they_are():
    """An embedding's gradient is 0 in most rows; torch's own makes them NaN at the paper's eps of 1e-30."""
    grad = torch.zeros(5, 8)
    grad[1] = 0.1
    ours, theirs = start((5, 8)), start((5, 8))
    moved = run(Adafactor([ours], lr=0.02), ours, [grad] * 3) - start((5, 8))
    assert moved[1].abs().min() > 0 and not moved[[0, 2, 3, 4]].any()
    assert run(torch.optim.Adafactor([theirs], lr=0.02, eps=(1e-30, 1e-3)), theirs, [grad] * 3).isnan().any()


def test_an_update_is_clipped_and_a_matrix_costs_a_row_and_a_column():
    p = start((6, 10))
    optimizer = Adafactor([p], lr=0.02)
    run(optimizer, p, gradients((6, 10), 1e-3))
    before = p.detach().clone()
    run(optimizer, p, [torch.full((6, 10), 1.0)])              # a thousand times the usual gradient
    change = (p.detach() - before).square().mean().sqrt()
    torch.testing.assert_close(change, 0.02 * before.square().mean().sqrt(), rtol=1e-4, atol=0)
    assert {k: v.numel() for k, v in optimizer.state[p].items()} == {"step": 1, "rows": 6, "columns": 10}
