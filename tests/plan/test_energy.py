"""Published footprints from their inputs; counters that wrap; the model's band."""
import sys

import pytest

from meristem.core.errors import RequestError
from meristem.plan import energy as energy_file
from meristem.plan.devices import DEVICES
from meristem.plan.energy import CPUS, GRID, Meter, estimate, factor, megawatt_hours, tonnes

A100, PUE, USA = DEVICES["a100-sxm-80gb"].watts, 1.1, 0.385


@pytest.mark.parametrize(("hours", "mwh", "carbon"),
                         [(809_472, 356, 137), (1_082_880, 475, 183), (82_432, 36, 14), (135_168, 59, 23),
                                                      (530_432, 233, 90), (1_022_362, 449, 173)])
def test_llama_table_15(hours, mwh, carbon):
    """PUBLISHED rows 37 to 39: OPT, BLOOM and four LLaMAs."""
    energy = megawatt_hours(hours, A100, PUE)
    assert energy == pytest.approx(mwh, rel=0.01) and tonnes(energy, USA) == pytest.approx(carbon, rel=0.01)


@pytest.mark.parametrize(("hours", "watts", "carbon"), [(184_320, 400, 31.22), (368_640, 400, 62.44),
                                                        (1_720_320, 400, 291.42), (1_038_336, 350, 153.90)])
def test_llama_2_card(hours, watts, carbon):
    """Row 41; the 34B's hours are the rest of the printed total, at 350 W."""
    assert tonnes(megawatt_hours(hours, watts, PUE), USA) == pytest.approx(carbon, abs=0.02)


@pytest.mark.parametrize(("hours", "carbon"), [(5.0e6, 1354), (2.38e6, 645)])
def test_llama_4_card(hours, carbon):
    """Row 43: its factor is 0.387 kg/kWh without an overhead."""
    assert tonnes(megawatt_hours(hours, DEVICES["h100-sxm"].watts), 0.387) == pytest.approx(carbon, rel=0.002)


@pytest.mark.parametrize(("watts", "chips", "days", "pue", "kg", "mwh", "carbon"), [
    (208, 200, 6.8, 1.10, 0.431, 7.5, 3.2), (310, 512, 20, 1.12, 0.545, 85.7, 46.7),
    (289, 1024, 30, 1.09, 0.415, 232, 96.4),
    (288, 1024, 3.1, 1.09, 0.201, 24.1, 4.8), (245, 1024, 27, 1.10, 0.403, 179, 72.2),
    (330, 10000, 14.8, 1.10, 0.429, 1287, 552.1)])
def test_patterson_table_4(watts, chips, days, pue, kg, mwh, carbon):
    """Rows 44 and 45: the search of NAS, T5, Meena, GShard, Switch, GPT-3."""
    energy = megawatt_hours(chips * days * 24, watts, pue)
    assert energy == pytest.approx(mwh, rel=0.01) and tonnes(energy, kg) == pytest.approx(carbon, rel=0.01)


@pytest.mark.parametrize(("chips", "days", "teraflops", "published"), [
    (512, 20, 45.6, 4.05e22), (1024, 30, 42.3, 1.12e23), (1024, 3.1, 48.0, 1.33e22), (1024, 27, 34.4, 8.22e22),
    (10000, 14.8, 24.6, 3.14e23)])
def test_patterson_flops(chips, days, teraflops, published):
    """Row 46: T5, Meena, GShard, Switch, GPT-3; GShard's days are printed with two digits."""
    assert chips * days * 86_400 * teraflops * 1e12 == pytest.approx(published, rel=0.0103)


def test_llama_2_and_4_in_all():
    """Rows 41 and 43: 3,311,616 hours and 539 t; 1,999 t."""
    hours = {184_320: 400, 368_640: 400, 1_720_320: 400, 1_038_336: 350}
    assert sum(hours) == 3_311_616
    assert sum(tonnes(megawatt_hours(h, w, PUE), USA) for h, w in hours.items()) == pytest.approx(539.0, abs=0.05)
    assert tonnes(megawatt_hours(5.0e6 + 2.38e6, 700), 0.387) == pytest.approx(1999, rel=0.001)


def test_stable_diffusion_and_durations():
    """Rows 48 and 40."""
    assert tonnes(megawatt_hours(150_000, DEVICES["a100-pcie-40gb"].watts), 0.3) == pytest.approx(11.25)
    days = 1_022_362 / 2048 / 24
    assert days == pytest.approx(20.80, abs=0.005)


def test_grids_and_devices():
    """Rows 49 and 50."""
    assert GRID == {"world": 475, "USA": 369.473, "FRA": 56.039, "DEU": 380.95, "CHN": 582.317, "IND": 713.441,
                    "POL": 661.926,
                    "SWE": 40.695, "NOR": 30.08}
    assert CPUS["EPYC 9755"][0] == 500 and CPUS["EPYC 9555"][0] == 360
    watts = {"h100-sxm": 700, "a100-sxm-80gb": 400, "a100-pcie-40gb": 250, "v100-sxm2-32gb": 300}
    assert {name: DEVICES[name].watts for name in watts} == watts
    with pytest.raises(RequestError, match="did you mean FRA"):
        factor("FR")


def test_the_model_is_stated_and_banded():
    energy = estimate(3600, 2, memory=8 * 10**9, cpu="AMD EPYC 9555 64-Core Processor")
    assert energy.joules == pytest.approx(3600 * (2 * 360 / 128 + 3.0))
    assert energy.low < energy.joules < energy.high
    assert "EPYC 9555" in energy.method and "estimated" in energy.method
    assert energy.grams == pytest.approx(energy.joules / 3.6e6 * 475)
    assert "8.62 Wh" in energy.line() and "475 g/kWh" in energy.line()
    assert "unknown" in estimate(1, 1, memory=0, cpu="VIA Nano").method


def domain(root, name, label, value, top=1000):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", label), ("energy_uj", str(value)), ("max_energy_range_uj", str(top))):
        (folder / file).write_text(text + "\n")


def test_counters_are_read_across_a_wrap_and_parts_are_not_counted_twice(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 900)
    domain(tmp_path, "intel-rapl:0:0", "core", 500)
    domain(tmp_path, "intel-rapl:0:1", "dram", 10)
    meter = Meter("NOR", tmp_path)
    domain(tmp_path, "intel-rapl:0", "package-0", 100)         # wrapped: 200 on
    domain(tmp_path, "intel-rapl:0:0", "core", 999)
    domain(tmp_path, "intel-rapl:0:1", "dram", 40)
    assert meter.read() == pytest.approx(230e-6)
    domain(tmp_path, "intel-rapl:0", "package-0", 101)
    energy = meter.stop()
    assert energy.joules == pytest.approx(231e-6)
    assert energy.method.startswith("measured: 2 RAPL") and energy.grid == "NOR"


def test_without_counters_the_wall_clock_and_the_model_stand_in(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()                        # present but closed: no readable files
    energy = Meter(root=tmp_path).stop()
    assert energy.method.startswith("estimated") and 0 <= energy.joules < 1000


def test_boards_are_read_by_their_counter_whatever_the_processor_does(tmp_path):
    """NVML counts millijoules since the driver was loaded."""
    reads = iter([(5_000_000.0,), (9_000_000.0,), (6_000_000.0,), (9_500_000.0,)])
    board = lambda: next(reads)[0]                             # noqa: E731 - two boards that share a clock
    energy = Meter(root=tmp_path, boards=[board, board]).stop()
    assert energy.joules == pytest.approx(1500, abs=5) and energy.low == pytest.approx(0.95 * 1500, abs=5)
    assert energy.method.startswith("measured: 2 boards by NVML") and "processor estimated" in energy.method


def test_a_machine_with_a_driver_and_no_binding_says_what_is_missing(tmp_path, monkeypatch):
    driver = tmp_path / "version"
    driver.write_text("NVRM")
    monkeypatch.setattr(energy_file, "DRIVER", driver)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "accelerators are NOT in it" in Meter(root=tmp_path).stop().method
