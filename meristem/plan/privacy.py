"""What DP-SGD promises: the epsilon of so many noisy steps, by the accountant of the dp-accounting library.

    spent(noise=1.1, rows=256, examples=60_000, steps=14_063)  # Spent(epsilon=2.9, delta=1e-5, ...)

Renyi differential privacy of the subsampled Gaussian (Mironov et al. 2019, https://arxiv.org/abs/1908.10530). It holds
for rows that are drawn independently at each step; ours are shuffled and taken in turn, which is close to it, as usual
in practice.
"""
from dataclasses import dataclass

from meristem.core.errors import RequestError

DELTA = 1e-5


@dataclass(frozen=True)
class Spent:
    """With probability 1 - delta, no single row changes the odds of any outcome by more than exp(epsilon)."""

    epsilon: float
    delta: float
    method: str


def spent(noise: float, rows: int, examples: int, steps: int, delta: float = DELTA) -> Spent:
    """The epsilon of `steps` steps of `rows` rows out of `examples`; RequestError without dp-accounting."""
    try:
        import dp_accounting  # type: ignore[import-untyped]
        from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError("epsilon is counted by dp-accounting, which is not installed: pip install dp-accounting"
                           ) from None
    if noise <= 0 or not 0 < rows <= examples or steps < 1:
        raise RequestError(f"noise {noise:g}, {rows} of {examples} rows, {steps} steps: noise and steps must be "
                           "positive, and no more rows a step than there are")
    accountant = RdpAccountant()
    step = dp_accounting.PoissonSampledDpEvent(rows / examples, dp_accounting.GaussianDpEvent(noise))
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return Spent(float(accountant.get_epsilon(delta)), delta, f"RDP of the subsampled Gaussian, noise {noise:g}, "
                 f"{rows} of {examples} rows, {steps} steps")
