"""The native norm of pictures beside torch's, forward and backward, and where it steps aside."""
import pytest
import torch
from torch.nn import functional as F

from meristem.nn import kernel
from meristem.nn.group_norm import group_norm

needs = pytest.mark.skipif(kernel.library() is None, reason="no native kernel here")


def pictures(dtype: torch.dtype, channels: int = 32) -> list[torch.Tensor]:
    """Pictures far from a mean of 0, a weight and a bias, which want gradients."""
    torch.manual_seed(0)
    x = (3 + 2 * torch.randn(2, channels, 5, 7)).to(dtype).to(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in (x, torch.randn(channels), torch.randn(channels))]


def expected(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, silu: bool) -> torch.Tensor:
    """torch's own, in fp64."""
    y = F.group_norm(x.double(), 8, w.double(), b.double(), 1e-5)
    return F.silu(y) if silu else y


@needs
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("silu", [False, True])
def test_values_and_gradients_are_torchs(dtype, bound, silu):
    given = pictures(dtype)
    y = group_norm(*given, 8, 1e-5, silu)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    true = expected(*given, silu)
    torch.testing.assert_close(y.double(), true, atol=bound, rtol=bound)
    weight = torch.randn_like(true).to(dtype)
    got, want = (torch.autograd.grad((one * weight.to(one.dtype)).sum(), given) for one in (y, true))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), atol=10 * bound, rtol=bound)


@needs
def test_a_large_mean_costs_no_digits():
    x = (1000 + torch.randn(1, 16, 8, 8)).to(memory_format=torch.channels_last)
    one, none = torch.ones(16), torch.zeros(16)
    torch.testing.assert_close(group_norm(x, one, none, 4, 1e-5).double(),
                               F.group_norm(x.double(), 4, eps=1e-5), atol=2e-4, rtol=1e-4)


@needs
def test_torch_knows_the_operator():
    torch.library.opcheck(torch.ops.meristem.group_norm, (*pictures(torch.float32), 8, 1e-5, True),
                          test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("away", ["channels", "kernel"])
def test_elsewhere_torch_does_it(monkeypatch, away):
    given = pictures(torch.float32, 24 if away == "channels" else 32)
    if away == "kernel":
        monkeypatch.setenv("MERISTEM_KERNEL", "0")
    torch.testing.assert_close(group_norm(*given, 8, 1e-5, True).double(), expected(*given, True), atol=1e-5, rtol=1e-5)
