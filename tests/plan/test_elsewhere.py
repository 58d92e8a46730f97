"""Whether published models fit, against bytes added up by hand, and LLaMA's training time."""
import pytest
import torch

from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.nn.linear import compute_in
from meristem.nn.quantise import quantise
from meristem.plan.cost import RUNTIME, on_meta
from meristem.plan.elsewhere import days, device_hours, fit, named, training
from tests.models import parity

GB = 10**9
LAYER = 8192 * 8192 * 2 + 2 * 8192 * 1024 + 3 * 8192 * 28672   # weights of one layer of Llama 2 70B


def test_llama_2_70b_does_not_fit_24_gb_and_the_smallest_change_that_does() -> None:
    found = fit(named("llama2-70b"), 24 * GB)
    assert found.parameters == 68_976_648_192
    assert found.cache == 4096 * 80 * 2 * 8 * 128 * 2          # positions, layers, k and v, groups, head, bf16
    assert [way.precision for way in found.whole] == ["bf16", "int8", "int4"]
    assert all(way.memory > 24 * GB for way in found.whole), "four and a half bits of 69e9 weights are 39 GB"
    assert found.whole[0].memory == pytest.approx(2 * 68_976_648_192 + found.cache + RUNTIME, rel=1e-4)
    best = found.best
    assert best is not None and best.precision == "int4" and best.layers == 80
    each = LAYER * 4.5 / 8                                     # bytes
    assert best.memory <= 24 * GB < best.memory + each, "one layer fewer elsewhere would not fit"
    assert best.memory == pytest.approx(found.whole[2].memory - (best.moved - 1) * each, rel=1e-3)
    assert any("smallest change that fits: int4, 3" in line and "of 80 layers" in line for line in found.explain())
    assert [way.precision for way in found.ways] == ["int4", "int8", "bf16"], "fewer bits, fewer layers elsewhere"


@pytest.mark.parametrize(("size", "memory", "best"), [
    ("llama2-7b", 24, "bf16"), ("llama2-7b", 12, "int8"), ("llama2-7b", 7, "int4"),
    ("llama2-70b", 180, "bf16"), ("llama2-70b", 80, "int8"), ("llama2-70b", 48, "int4"),
    ("llama3.1-405b", 8 * 80, "int8")])
def test_the_least_quantised_that_fits_whole_is_best(size: str, memory: int, best: str) -> None:
    found = fit(named(size), memory * GB, context=2048)
    assert found.best is not None and found.best.name == best
    assert found.best.memory <= memory * GB


@pytest.mark.parametrize(("precision", "bits", "group"), [("int8", 8, 0), ("int4", 4, 32)])
@pytest.mark.parametrize("tied", [False, True])
def test_bytes_are_those_of_the_quantised_model(precision: str, bits: int, group: int, tied: bool) -> None:
    shape = {"vocab": 320, "context": 16, "dim": 64, "layers": 2, "heads": 4, "hidden": 128, "tied": tied}
    found = next(way for way in fit(Part("llama", shape), GB, batch=3).whole if way.precision == precision)
    module = quantise(compute_in(parity.ours("llama", **shape)[1], torch.bfloat16), bits, group)
    floats = sum(2 * p.numel() for p in module.parameters() if p.dtype == torch.float32)       # would be kept in bf16
    packed = sum(p.numel() * p.element_size() for p in module.parameters() if p.dtype != torch.float32)
    cache = sum(c.k.numel() + c.v.numel() for c in module.caches(3, 16)) * 2
    assert found.memory == floats + packed + cache + 4 * 3 * 320 + RUNTIME


def test_nothing_fits_is_said_and_nonsense_is_refused() -> None:
    found = fit(named("llama2-70b"), GB)
    assert found.best is None and "nothing fits" in found.explain()[-1]
    with pytest.raises(RequestError, match="llama2-70b"):
        named("llama2-70")
    with pytest.raises(RequestError, match="at least 1"):
        fit(named("llama2-7b"), 0)


def test_llamas_training_time() -> None:
    """PUBLISHED row 40: 1,022,362 GPU hours on 2,048 GPUs; the paper's 380 tokens/s a GPU on 1.4 T tokens agree."""
    assert days(1_022_362, 2048) == pytest.approx(20.80, abs=0.005)
    assert device_hours(1.4e12, 380) == pytest.approx(1_022_362, rel=2e-3)
    assert sum(p.numel() for p in on_meta(named("llama-65b")).parameters()) == 65_285_660_672


@pytest.mark.parametrize(("size", "tokens", "hours", "mwh"), [
    ("llama-7b", 1.0e12, 82_432, 36), ("llama-13b", 1.0e12, 135_168, 59), ("llama-33b", 1.4e12, 530_432, 233),
    pytest.param("llama-65b", 1.4e12, 1_022_362, 449, marks=pytest.mark.slow)])
def test_llamas_device_hours_lie_within_the_estimate(size, tokens, hours, mwh):
    """E12: Touvron et al. 2023, table 15, A100-80GB; expected within a quarter."""
    found = training(named(size), tokens, "a100-sxm-80gb", price=2.0)
    assert found.hours[1] < hours < found.hours[2] and found.hours[0] == pytest.approx(hours, rel=0.25)
    assert found.megawatt_hours[1] < mwh < found.megawatt_hours[2] and found.dollars[0] == 2 * found.hours[0]
    assert training(named(size), tokens, "tpu-v5e").megawatt_hours is None


def test_an_estimate_is_words():
    lines = training(named("llama-7b"), 1e12, "a100-sxm-80gb").explain(2048)
    assert lines[0] == "4.29e+22 FLOPs" and any(line.startswith("days on 2,048 devices: ") for line in lines)
