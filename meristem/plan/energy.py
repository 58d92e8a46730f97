"""Joules and carbon: read from the counters of processors and boards where there are, else a stated model with a band.

    meter = Meter()
    ...work..., calling meter.tick() now and then (a counter wraps after about an hour)
    energy = meter.stop()               # Energy(joules, low, high, method, grams)
    estimate(seconds=300, threads=2)    # the model alone, for a plan

The model: share of the processor's rated power by threads used, plus 0.375 W a GB of memory (3 W for 8 GB, codecarbon's
constant). Its band is wide on purpose: rated power says little about a shared, turbo-clocked core. Boards with NVIDIA's
counter (NVML, millijoules since the driver was loaded; Volta and later) are read whatever the processor does: needs
pip install 'meristem[nvml]'. Published footprints use `megawatt_hours` and `tonnes`: hours x watts x PUE x kg/kWh
(LLaMA, Touvron et al. 2023, section 6).
"""
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meristem.core import machine
from meristem.core.errors import RequestError, nearest

POWERCAP = Path("/sys/class/powercap")
Counter = Callable[[], float]           # millijoules of a board so far
MEMORY_WATTS = 0.375e-9                 # a byte
# Grams of CO2e a kWh, 2023 (codecarbon's data files); world: IEA's average.
GRID = {"world": 475.0, "USA": 369.473, "FRA": 56.039, "DEU": 380.95, "CHN": 582.317, "IND": 713.441, "POL": 661.926,
        "SWE": 40.695, "NOR": 30.08}
# Part of the processor's name -> (rated watts, hardware threads), first match; makers' data sheets.
CPUS = {"EPYC 9755": (500, 256), "EPYC 9555": (360, 128), "EPYC": (280, 128), "Platinum 8480": (350, 112),
        "Xeon": (205, 56),
        "Ryzen 9 7950X": (170, 32), "Ryzen": (105, 16), "Core(TM) i9": (125, 24), "Core(TM)": (65, 12),
        "Ultra": (65, 16),
        "Apple M": (30, 10), "Neoverse": (250, 96)}
UNKNOWN = (85, 16)                      # codecarbon's default processor
DRIVER = Path("/proc/driver/nvidia/version")
# of the model: an idle sibling thread or a low clock; a lone thread at turbo, losses of the supply
BAND = (0.4, 2.5)


@dataclass(frozen=True)
class Energy:
    """Energy of some work in joules, with the bounds it may lie in and how it was found; `grams` of CO2e at `grid`."""

    joules: float
    low: float
    high: float
    method: str
    grid: str = "world"

    @property
    def grams(self) -> float:
        """Grams of CO2e at the grid's average intensity."""
        return self.joules / 3.6e6 * factor(self.grid)

    def line(self) -> str:
        """One line for people: energy, band, carbon, method."""
        low, value, high = (x / 3600 for x in (self.low, self.joules, self.high))
        return (f"{value:.3g} Wh ({low:.2g} to {high:.2g}), {self.grams:.2g} g CO2e at {factor(self.grid):.0f} g/kWh "
                f"({self.grid}); {self.method}")


def estimate(seconds: float, threads: int | None = None, *, memory: int | None = None, cpu: str | None = None,
             grid: str = "world") -> Energy:
    """Energy of `seconds` of work on `threads` hardware threads by the model; defaults describe this machine."""
    factor(grid)
    count = machine.threads() if threads is None else threads
    cpu = machine.cpu_name() if cpu is None else cpu
    size = machine.memory() if memory is None else memory
    name, (watts, total) = next(((n, f) for n, f in CPUS.items() if n in cpu), ("an unknown processor", UNKNOWN))
    each = watts / total
    power = each * count + MEMORY_WATTS * size
    method = (f"estimated: {count} threads x {each:.1f} W ({watts} W over {total} threads, as {name}) + "
              f"{MEMORY_WATTS * size:.1f} W of memory; the truth may be {BAND[0]} to {BAND[1]} times that")
    return Energy(power * seconds, BAND[0] * power * seconds, BAND[1] * power * seconds, method, grid)


class Meter:
    """Energy since its making: RAPL counters if this process may read them, else the model over the wall clock."""

    def __init__(self, grid: str = "world", root: Path = POWERCAP, boards: Sequence[Counter] | None = None):
        factor(grid)
        self.grid, self.start = grid, time.monotonic()
        self.boards = list(_boards() if boards is None else boards)
        self.before = [board() for board in self.boards]
        self.domains = _domains(root)
        self.last = {path: _count(path / "energy_uj") for path in self.domains}
        self.joules = 0.0

    def read(self) -> float:
        """Joules so far by the counters (0.0 without any); call at least every ten minutes, for they wrap."""
        for path, before in self.last.items():
            now = _count(path / "energy_uj")
            wrapped = _count(path / "max_energy_range_uj") if now < before else 0
            self.joules += (now - before + wrapped) / 1e6
            self.last[path] = now
        return self.joules

    def tick(self) -> None:
        """`read`, for loops that want nothing back."""
        self.read()

    def stop(self) -> Energy:
        """The energy since the start, of processor and boards together."""
        here = self._processor()
        if not self.boards:
            missing = "; accelerators are NOT in it (pip install 'meristem[nvml]')" if DRIVER.exists() else ""
            return replace(here, method=here.method + missing)
        used = sum(board() - start for board, start in zip(self.boards, self.before, strict=True)) / 1e3
        return Energy(here.joules + used, here.low + 0.95 * used, here.high + 1.05 * used,
                      f"measured: {len(self.boards)} boards by NVML (5 %), {used:.3g} J, every program's; processor "
                      f"{here.method}", self.grid)

    def _processor(self) -> Energy:
        seconds = time.monotonic() - self.start
        if not self.domains:
            return estimate(seconds, grid=self.grid)
        share = min(1.0, machine.threads() / (os.cpu_count() or 1))
        joules = self.read()
        return Energy(joules, joules * share, joules * 1.2,
                      f"measured: {len(self.domains)} RAPL domains of the whole processor, "
                      "other programs included; supply losses (up to 20 %) are not", self.grid)


def _boards() -> list[Counter]:
    """A counter of millijoules for each board that has one; none without NVIDIA's driver or its Python binding."""
    if not DRIVER.exists():
        return []
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        boards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        read = pynvml.nvmlDeviceGetTotalEnergyConsumption
        counters: list[Counter] = [functools.partial(read, board) for board in boards]
        for counter in counters:
            counter()
    except pynvml.NVMLError:                                   # older than Volta, or not permitted
        return []
    return counters


def megawatt_hours(hours: float, watts: float, pue: float = 1.0) -> float:
    """Device hours x rated watts x the data centre's overhead."""
    return hours * watts * pue / 1e6


def tonnes(mwh: float, kg_per_kwh: float) -> float:
    """Tonnes of CO2e of so much energy."""
    return mwh * kg_per_kwh


def factor(grid: str) -> float:
    """Grams of CO2e a kWh of a grid; RequestError names the known ones."""
    if grid not in GRID:
        raise RequestError(f"no carbon intensity of {grid!r}; {nearest(grid, GRID)}")
    return GRID[grid]


def _domains(root: Path) -> list[Path]:
    """Readable counters of whole processors and their memory; cores and graphics are inside the package's own count."""
    found = []
    for path in sorted(root.glob("*rapl:*")):
        try:
            name = (path / "name").read_text().strip()
            _count(path / "energy_uj")
        # root only since 2020 (CVE-2020-8694), absent in containers
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            found.append(path)
    return found


def _count(path: Path) -> int:
    return int(path.read_text())
