"""Eight bits: range, saturation, underflow, gradients by hand, and a model that trains all the same."""
import pytest
import torch

from meristem.core.run import Train
from meristem.models.llama import Config, Model
from meristem.nn.fp8 import E4M3, E5M2, Product, emulate, lost, rounded, scale_of
from meristem.objectives.next_token import NextToken
from meristem.train.trainer import Trainer

ONE = torch.ones(())
FORMATS = {E4M3: (448.0, 2.0**-9, 3), E5M2: (57344.0, 2.0**-16, 2)}        # largest, smallest, bits of the fraction


@pytest.mark.parametrize("format", FORMATS)
def test_range_saturation_and_underflow(format):
    largest, smallest, bits = FORMATS[format]
    x = torch.tensor([largest, 1e9, -1e9, smallest, smallest * 0.51, smallest * 0.49, 0.0, 1.0, 1 + 2.0**-bits])
    want = [largest, largest, -largest, smallest, smallest, 0.0, 0.0, 1.0, 1 + 2.0**-bits]
    assert rounded(x, format, ONE).tolist() == want
    assert torch.tensor(1e9).to(E5M2).float().isinf(), "torch's own cast does not saturate: what `rounded` is for"
    assert rounded(torch.tensor([float("nan"), 1.0]), format, ONE).isnan().tolist() == [True, False]


@pytest.mark.parametrize("format", FORMATS)
def test_the_error_is_half_a_unit_of_the_fraction_over_the_whole_normal_range(format):
    largest, smallest, bits = FORMATS[format]
    x = torch.logspace(-3, 3, 4001) * 1e-4                     # any size: the scale takes care of it
    x = x[x > 1e-1 / largest * smallest * 2**bits]
    assert ((rounded(x, format) - x).abs() / x).max() <= 2.0**-(bits + 1) * 1.001
    assert rounded(x, format).max() == pytest.approx(0.1)


def test_a_scale_keeps_what_would_be_lost_without_it():
    """Gradients of 1e-6 are all 0 in E4M3, and whole with a scale; what is 2^20 below the largest is lost with one."""
    small = 1e-6 * torch.rand(1000, generator=torch.Generator().manual_seed(0)).add(0.1)
    assert lost(small, E4M3, ONE) == 1.0 and lost(small, E4M3) == 0.0
    wide = torch.tensor([1.0, 2.0**-18, 2.0**-20, 2.0**-32, 2.0**-34, 0.0])
    assert lost(wide, E4M3) == pytest.approx(3 / 5) and lost(wide, E5M2) == pytest.approx(1 / 5)
    assert lost(torch.zeros(4), E4M3) == 0.0 and scale_of(torch.zeros(4), E4M3) == 1
    assert rounded(torch.zeros(4), E4M3).tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_and_gradients_by_hand(dtype):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 5, 8, generator=g).to(dtype).requires_grad_(), torch.randn(3, 8, generator=g)
    weight.requires_grad_()
    grad = torch.randn(2, 5, 3, generator=g).to(dtype)
    y = Product.apply(x, weight)
    y.backward(grad)
    rx, rw, rg = rounded(x.detach(), E4M3), rounded(weight.detach(), E4M3).to(dtype), rounded(grad, E5M2)
    assert torch.equal(y, rx @ rw.T) and torch.equal(x.grad, rg @ rw)
    torch.testing.assert_close(weight.grad, torch.einsum("bto,bti->oi", rg, rx).float(), rtol=1e-2, atol=1e-2)
    assert not torch.equal(y, x @ weight.T.to(dtype)) and weight.grad.dtype == torch.float32


def test_a_model_learns_in_eight_bits_almost_as_well():
    def counting(step):
        start = torch.randint(30, (4, 1), generator=torch.Generator().manual_seed(step))
        return [{"tokens": (start + torch.arange(17)) % 30, "weight": torch.ones(4, 16)}]

    last = []
    for eight in (False, True):
        torch.manual_seed(0)
        model = Model(Config(vocab=30, dim=32, layers=2, heads=4, context=16))
        plain = model.blocks[0].attn.q(torch.ones(32))
        if eight:
            assert not torch.equal(emulate(model).blocks[0].attn.q(torch.ones(32)), plain)
        last.append(Trainer(NextToken(model), counting, Train(steps=30, lr=2e-2, warmup=5)).fit()["loss"])
    assert last[0] < 1.0 and last[0] != last[1] and abs(last[0] - last[1]) < 0.1
