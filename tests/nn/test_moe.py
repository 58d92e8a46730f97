"""Routing and experts against a loop over tokens, both ways of balancing, and the compiled path's operators."""
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from meristem.nn import moe
from meristem.nn.mlp import GatedMLP
from meristem.nn.moe import MoE

KINDS = {"softmax": {}, "not normalised": {"normalise": False}, "sigmoid": {"score": "sigmoid"},
         "llama4": {"score": "sigmoid", "normalise": False, "scale_input": True, "shared": 9}}


def layer(dim: int = 12, hidden: int = 10, experts: int = 6, top_k: int = 2, **fields) -> MoE:
    """A layer with weights of a size at which its products matter."""
    torch.manual_seed(0)
    made = MoE(dim, hidden, experts, top_k, **fields)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.5)
    return made


def expert(m: MoE, e: int, x: Tensor) -> Tensor:
    """One expert alone."""
    inside = m.experts
    return F.linear(F.silu(F.linear(x, inside.gate[e])) * F.linear(x, inside.up[e]), inside.down[e])


def by_hand(m: MoE, x: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    out = []
    for token in x:
        logits = m.router.weight @ token
        score = logits.softmax(0) if m.score == "softmax" else logits.sigmoid()
        best = (score if m.bias is None else score + m.bias).argsort(descending=True)[:m.top_k]
        total = score[best].sum() if m.normalise else 1.0
        y = torch.zeros_like(token) if m.shared is None else m.shared(token)
        for e in best:
            w = score[e] / total
            y = y + (expert(m, int(e), w * token) if m.scale_input else w * expert(m, int(e), token))
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 57])
def test_a_token_goes_through_its_experts_by_their_weights_and_so_do_gradients(kind: str, tokens: int) -> None:
    m, x = layer(**KINDS[kind]), torch.randn(tokens, 12, requires_grad=True)
    got, want = m(x), by_hand(m, x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    probe, wrt = torch.randn_like(got), [x, *m.parameters()]
    for a, b in zip(torch.autograd.grad((got * probe).sum(), wrt), torch.autograd.grad((want * probe).sum(), wrt),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_normalised_weights_are_a_softmax_over_the_chosen_logits() -> None:
    m, x = layer(), torch.randn(40, 12)
    _, weight, chosen = m.route(x)
    torch.testing.assert_close(weight, m.router(x).gather(-1, chosen).softmax(-1))


@pytest.mark.parametrize("top_k", [1, 3, 6])
def test_equal_experts_are_one_network_whatever_is_chosen(top_k: int) -> None:
    """The identity of dropless routing: nothing is lost or doubled on the way there and back, up to top_k = all."""
    m, dense = layer(top_k=top_k), GatedMLP(12, 10)
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(m.experts, name).copy_(getattr(dense, name).weight.expand(6, -1, -1))
    x = torch.randn(3, 33, 12)
    torch.testing.assert_close(m(x), dense(x))


def test_no_token_is_dropped_when_all_choose_one_expert() -> None:
    m, x = layer(top_k=1).train(), torch.randn(200, 12).abs()
    with torch.no_grad():
        m.router.weight.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0, 0.0])[:, None].expand(6, 12))
    y = m(x)
    torch.testing.assert_close(y, expert(m, 3, x))
    assert m.load is not None and m.load.tolist() == [0, 0, 0, 200, 0, 0]
    assert m.balance is not None and float(m.balance.detach()) == pytest.approx(6, rel=1e-3), "E / top_k at the worst"
    y.sum().backward()
    moved = m.experts.down.grad.abs().sum((1, 2)) > 0
    assert moved.tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_balance_loss_is_transformers_own_over_top_k(top_k: int) -> None:
    m, x = layer(top_k=top_k, balance_loss=0.1).train(), torch.randn(64, 12)
    m(x)
    theirs = load_balancing_loss_func((m.router(x),), 6, top_k)
    torch.testing.assert_close(m.balance * top_k, theirs)
    a, b = (torch.autograd.grad(loss, m.router.weight)[0] for loss in (m.balance * top_k, theirs))
    torch.testing.assert_close(a, b)


def test_an_even_load_has_balance_1_and_evaluation_keeps_nothing() -> None:
    m = layer(dim=6, top_k=1).train()
    with torch.no_grad():
        m.router.weight.copy_(torch.eye(6))
    m(5 * torch.eye(6).repeat(4, 1))
    assert float(m.balance) == pytest.approx(1, rel=1e-6) and m.load.tolist() == [4] * 6
    m.balance = m.load = None
    m.eval()(torch.randn(5, 6))
    assert m.balance is None and m.load is None


def test_a_bias_chooses_but_does_not_weigh() -> None:
    m, x = layer(balance_rate=0.1), torch.randn(50, 12)
    m.bias[4] = 5.0                                            # probabilities are below 1: everybody takes expert 4
    _, weight, chosen = m.route(x)
    assert (chosen == 4).any(-1).all()
    torch.testing.assert_close(weight, m.router(x).gather(-1, chosen).softmax(-1))
    torch.testing.assert_close(m(x), by_hand(m, x), rtol=1e-5, atol=1e-5)


def test_biases_move_against_the_load_of_all_micro_batches() -> None:
    m = layer(experts=4, top_k=1, balance_rate=0.01).train()
    before = m.bias.clone()
    for load in ([10, 0, 1, 1], [0, 6, 1, 5]):                 # together 10, 6, 2, 6 around a mean of 6
        m.load, m.balance = torch.tensor(load), torch.tensor(1.0)
        moe.settle([m])
    moe.adjust([m])
    assert (m.bias - before).tolist() == pytest.approx([-0.01, 0.0, 0.01, 0.0]) and m.counted is None
    m.counted = torch.tensor([9, 0, 0, 0])
    moe.adjust([m], move=False)
    assert m.counted is None and m.bias[0] == pytest.approx(-0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_of_compiled_code_are_the_eager_ones(dtype: torch.dtype) -> None:
    """In both types (torch's own shape function of grouped_mm refuses fp32), with an expert without rows."""
    x = torch.randn(29, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(4, 8, 16, dtype=dtype, requires_grad=True)
    ends = torch.tensor([5, 5, 20, 29], dtype=torch.int32)
    torch.library.opcheck(moe._grouped, (x, weight, ends))
    compiled, eager = moe._grouped(x, weight, ends), moe.grouped(x, weight, ends)
    assert torch.equal(compiled, eager)
    probe = torch.randn_like(eager)
    for a, b in zip(torch.autograd.grad(compiled, (x, weight), probe), torch.autograd.grad(eager, (x, weight), probe),
                    strict=True):
        assert torch.equal(a, b)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"top_k \(7\) must be 1 to the number of experts \(6\)"):
        MoE(8, 8, 6, 7)
