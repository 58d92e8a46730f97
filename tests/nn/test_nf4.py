"""NF4: the published table to seven digits, what double quantisation costs and saves, the gradient, QLoRA around it."""
import pytest
import torch

from meristem.adapt import base, files, qlora
from meristem.nn.linear import Linear
from meristem.nn.nf4 import BLOCK, OUTER, NF4Linear, codebook
from tests.adapt.methods import TOKENS, attach, shaken, small

PUBLISHED = ("-1.0000000 -0.6961928 -0.5250731 -0.3949175 -0.2844414 -0.1847734 -0.0910500 0.0000000 0.0795803 "
             "0.1609302 0.2461123 0.3379152 0.4407098 0.5626170 0.7229568 1.0000000")


def test_the_table_is_the_published_one() -> None:
    assert " ".join(f"{v:.7f}" for v in codebook().tolist()) == PUBLISHED


def layer(rows: int = 96, cols: int = 100) -> Linear:
    """A layer whose last block of weights is not full."""
    torch.manual_seed(0)
    return Linear(cols, rows)


def bits(made: NF4Linear) -> float:
    """Bits a weight, bias and tables apart."""
    return sum(8 * p.numel() * p.element_size() for n, p in made.named_parameters() if n != "bias") / (
        made.out_features * made.in_features)


def test_every_weight_becomes_the_nearest_value_of_its_block() -> None:
    plain = layer()
    flat = torch.nn.functional.pad(plain.weight.detach().flatten(), (0, -plain.weight.numel() % BLOCK)).view(-1, BLOCK)
    values = flat.abs().amax(1)[:, None, None] * codebook()
    nearest = values.expand(-1, BLOCK, -1).gather(2, (flat[..., None] - values).abs().argmin(2)[..., None])[..., 0]
    made = NF4Linear.of(plain, double=False)
    torch.testing.assert_close(made.weight.flatten(), nearest.flatten()[:plain.weight.numel()], rtol=0, atol=1e-7)


def test_double_quantisation_saves_0373_bits() -> None:
    plain = Linear(BLOCK * OUTER, 64, bias=False)
    once, twice = (NF4Linear.of(plain, double=double) for double in (False, True))
    assert bits(once) == 4.5
    assert bits(once) - bits(twice) == pytest.approx(0.373, abs=5e-4)
    error = [(made.weight - plain.weight).square().mean().item() for made in (once, twice)]
    assert error[1] < 1.001 * error[0]


def test_the_gradient_reaches_the_input_alone() -> None:
    made, x = NF4Linear.of(layer()), torch.randn(3, 5, 100, requires_grad=True)
    made(x).square().sum().backward()
    reference = x.detach().clone().requires_grad_()
    (reference @ made.weight.T + made.bias).square().sum().backward()
    assert x.grad is not None and reference.grad is not None
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-5, atol=1e-5)
    assert all(not p.requires_grad for p in made.parameters())
    assert made(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_qlora_saved_loaded_merged(tmp_path) -> None:
    module = attach(small("llama"), "qlora", rank=4)
    quantised = qlora.quantise(small("llama"))
    assert torch.equal(module(TOKENS), quantised(TOKENS))      # step 0 is the quantised base
    before = shaken(module)(TOKENS)
    files.save(tmp_path / "adapter", module, "llama", "hash")
    again = files.load(tmp_path / "adapter", small("llama"), "llama", "hash")
    assert torch.equal(again(TOKENS), before)
    torch.testing.assert_close(files.merge(module)(TOKENS), before, rtol=0, atol=1e-5)
    assert module.state_dict().keys() == small("llama").state_dict().keys()
    assert base.layers(module, base.Layer) == {}
