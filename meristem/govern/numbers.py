"""Numbers for people: 7,939,264 -> "7.94 M", 312 s -> "5 min 12 s". A missing number is an en dash, never a zero."""
from typing import Any

MISSING = "\N{EN DASH}"
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: Any, unit: str = "") -> str:
    """Three figures with a decimal prefix: `short(3.2e12, "FLOP/s")` is "3.20 TFLOP/s"."""
    if not _known(value):
        return MISSING
    for size, prefix in PREFIXES:
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {prefix}{unit}".strip()
    return f"{_three(value)} {unit}".strip()


def duration(seconds: Any) -> str:
    """Seconds as the two largest of h, min, s."""
    if not _known(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.2g} s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(value: Any) -> str:
    """A whole number with separators."""
    return f"{int(value):,}" if _known(value) else MISSING


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f} %" if _known(value) else MISSING


def in_unit(value: Any, unit: str) -> str:
    """A score's value: shares as percentages, the rest with three decimals."""
    return percent(value) if unit == "share" else f"{value:.3f}" if _known(value) else MISSING


def p_value(p: float) -> str:
    """"p < 0.001" or "p = 0.012"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _three(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and value == value
