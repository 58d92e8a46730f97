"""What 1,000 tokens of answers cost at a measured rate: money, energy, carbon.

    cost = per_thousand(368.0, price=0.10)                     # tokens a second of the whole machine, dollars an hour
    cost.dollars, cost.energy.joules, cost.line()

Money is the machine's price an hour over what it writes in an hour; energy is `plan.energy`'s model over the seconds
that 1,000 tokens take, with its band (a board's or processor's counters, where there are any, are the server's to read:
GET /metrics). `python -m benchmarks.serving --price 0.10 --recorded` prices the rates that are in its last result.
"""
from dataclasses import dataclass

from meristem.core.errors import RequestError
from meristem.plan.energy import Energy, estimate

THOUSAND = 1000


@dataclass(frozen=True)
class Thousand:
    """Of 1,000 tokens: seconds of the machine, dollars (None: no price was given), energy."""

    seconds: float
    dollars: float | None
    energy: Energy

    def line(self) -> str:
        """One line for people."""
        money = "" if self.dollars is None else f"{self.dollars:.3g} dollars, "
        return f"1,000 tokens: {self.seconds:.3g} s, {money}{self.energy.line()}"


def per_thousand(rate: float, *, price: float = 0.0, threads: int | None = None, cpu: str | None = None,
                 memory: int | None = None, grid: str = "world") -> Thousand:
    """At `rate` tokens a second and `price` dollars an hour; RequestError for a rate that is not positive.

    `threads`, `cpu` and `memory` (bytes) describe the machine, by default this one.
    """
    if not 0 < rate < float("inf") or price < 0:
        raise RequestError(f"a rate of {rate} tokens a second at {price} dollars an hour has no cost; the rate is "
                           "above 0, the price not below")
    seconds = THOUSAND / rate
    return Thousand(seconds, seconds / 3600 * price if price else None,
                    estimate(seconds, threads, cpu=cpu, memory=memory, grid=grid))
