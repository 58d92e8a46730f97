"""Kernels that are cast once for asking."""
import pytest
import torch

from meristem.nn.conv import cast
from meristem.nn.linear import compute_in
from tests.models import parity

UNET = {"inputs": 3, "image": 8, "channels": (16, 32), "blocks": 1, "attention": (False, True), "groups": 8, "heads": 4}


@torch.no_grad()
def test_kernels_are_cast_for_a_while_and_the_numbers_stay() -> None:
    model = compute_in(parity.ours("unet", **UNET)[1].eval(), torch.bfloat16)
    before = {name: p.clone() for name, p in model.named_parameters()}
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    plain = model(x, t)
    with pytest.raises(ZeroDivisionError), cast(model):
        assert model.out.weight.dtype == torch.bfloat16
        with cast(model):                                      # two who ask at once
            assert torch.equal(model(x, t), plain)
        assert torch.equal(model(x, t), plain)
        raise ZeroDivisionError
    assert all(torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in model.named_parameters())


def test_a_network_that_computes_in_its_own_type_is_left_alone() -> None:
    model = parity.ours("unet", **UNET)[1]
    with cast(model):
        assert model.out.weight.dtype == torch.float32
