"""Quantised layers: error bounds by arithmetic, packing inverted exactly, names, refusals, and the state they save."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.models.llama import Config, Model
from meristem.nn.linear import Linear
from meristem.nn.quantise import LEVELS, QuantisedLinear, _pack, _unpack, quantise


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31))
def test_packing_is_inverted_exactly(bits, rows, eights, seed):
    q = torch.randint(-2**(bits - 1), 2**(bits - 1), (rows, 16, 8 * eights), dtype=torch.int32,
                      generator=torch.Generator().manual_seed(seed))
    assert torch.equal(_unpack(_pack(q, bits), bits), q)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([4, 8]), st.sampled_from([8, 32, 64, 0]), st.booleans(), st.floats(-6, 3), st.integers(0, 2**31))
def test_no_weight_moves_by_more_than_half_a_step(bits, group, affine, magnitude, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = Linear(64, 21, bias=False)
    with torch.no_grad():
        layer.weight.copy_((torch.randn(21, 64, generator=generator) + (0.3 if affine else 0.0)) * 10**magnitude)
    got = QuantisedLinear.of(layer, bits=bits, group=group, affine=affine).weight
    w = layer.weight.detach().view(21, -1, group or 64)
    reach = (w.amax(-1) - w.amin(-1)) / (2**bits - 1) if affine else w.abs().amax(-1) / LEVELS[bits]
    # bf16 scales and offsets: a scale may be 2^-8 larger, or 2^-9 smaller, which cuts the largest weight by as much;
    # an offset is off by 2^-9 of itself, which moves every weight of its group and may cut one end by as much
    bound = reach * (0.5 + 2**-8) + w.abs().amax(-1) * 2**-8
    error = (got.view_as(w) - w).abs().amax(-1)
    assert bool((error <= bound).all()), (error / bound).max()


def test_the_forward_is_the_product_with_the_dequantised_matrix():
    torch.manual_seed(0)
    layer = Linear(64, 24, bias=True)
    for bits, affine in ((8, False), (4, True)):
        new = QuantisedLinear.of(layer, bits=bits, group=32, affine=affine)
        x = torch.randn(2, 3, 64)
        assert torch.equal(new(x), F.linear(x, new.weight, layer.bias))
        assert new(x.bfloat16()).dtype == torch.bfloat16
        x.requires_grad_()
        new(x).sum().backward()                                # a frozen base passes gradients on (QLoRA)
        torch.testing.assert_close(x.grad, new.weight.sum(0).expand_as(x))


def test_an_affine_grid_is_finer_than_a_symmetric_one():
    torch.manual_seed(0)
    layer = Linear(256, 64, bias=False)
    exact = layer.weight.detach()
    errors = {a: float((QuantisedLinear.of(layer, bits=4, group=32, affine=a).weight - exact).square().mean())
              for a in (False, True)}
    assert errors[True] < 0.9 * errors[False]


def test_layers_are_chosen_by_name_and_the_state_is_loaded_back():
    config = Config(vocab=50, context=32, dim=32, layers=2, heads=2, hidden=64, tied=True)
    torch.manual_seed(0)
    model = quantise(Model(config), 4, 32, where=r"mlp\.")
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, Linear | QuantisedLinear)}
    assert {name for name, kind in kinds.items() if kind is QuantisedLinear} == {
        f"blocks.{i}.mlp.{part}" for i in range(2) for part in ("gate", "up", "down")}
    torch.manual_seed(1)
    other = quantise(Model(config), 4, 32, where=r"mlp\.")
    assert not torch.equal(other.blocks[0].mlp.up.packed, model.blocks[0].mlp.up.packed)
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(10)[None]
    assert torch.equal(other(tokens), model(tokens))
    assert all(not p.requires_grad for m in model.modules() if isinstance(m, QuantisedLinear) for p in m.parameters())


def test_what_cannot_be_quantised_is_refused():
    model = Model(Config(vocab=50, context=32, dim=48, layers=1, heads=2, hidden=64))
    with pytest.raises(RequestError, match="did you mean"):
        quantise(model, 8, where="block.0.mlp")
    with pytest.raises(RequestError, match="a group of 32 columns must be a multiple of 8 and divide a weight's 48"):
        quantise(model, 4, 32)
    with pytest.raises(RequestError, match="8 or 4 bits, not 3"):
        quantise(model, 3)
