"""The device table: complete, in the right units, and refused by name."""
import pytest

from meristem.core.errors import RequestError
from meristem.plan.devices import DEVICES, device


@pytest.mark.parametrize("name", DEVICES)
def test_every_row_is_plausible_and_has_a_source(name):
    d = DEVICES[name]
    assert d.source.startswith("https://") and 1 <= d.node <= 8960
    assert 10**13 < max(d.peak.values()) < 10**16 and 10**10 < d.memory < 10**12
    assert 10**11 < d.bandwidth < 10**13 and d.network < d.link < d.bandwidth and 0 <= d.watts <= 1000
    assert all(rate <= d.peak.get("bfloat16", d.peak.get("float16")) * 2.1 for rate in d.peak.values())


@pytest.mark.parametrize(("name", "dtype", "tflops", "gigabytes"), [
    ("a100-sxm-80gb", "bfloat16", 312, 80), ("h100-sxm", "bfloat16", 989.4, 80), ("h200-sxm", "bfloat16", 989.4, 141),
    ("v100-sxm2-32gb", "float16", 125, 32), ("tpu-v4", "bfloat16", 275, 34.36), ("mi300x", "bfloat16", 1307.4, 192)])
def test_published_peaks_are_dense_ones(name, dtype, tflops, gigabytes):
    found = device(name)
    assert found.flops(dtype) == pytest.approx(tflops * 1e12) and found.memory / 1e9 == pytest.approx(gigabytes, 1e-3)


def test_what_is_not_there_is_refused_with_the_names():
    with pytest.raises(RequestError, match=r"no device 'h100'; did you mean h100-\w+.*known: v100-sxm2-32gb, t4"):
        device("h100")
    with pytest.raises(RequestError, match="no bfloat16 arithmetic; it has float16, float32"):
        device("t4").flops("bfloat16")
