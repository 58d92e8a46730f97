"""Scaling laws: the loss to expect of N parameters and D units of data, the best split of a budget, fits with
intervals.

L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, approach 3), fitted as
they did: Huber loss of 1e-3 on log L. Repeated data counts for less (Muennighoff et al. 2023,
https://arxiv.org/abs/2305.16264). `HOFFMANN` and `EPOCH` are published fits in nats a token of their vocabulary.
`own()` is this project's law for small models, fitted by `python -m benchmarks.ladder --fit` on runs of this very
trainer: bits and bytes of text, so that it holds for any vocabulary.

    EPOCH.optimal(5.76e23)              # (parameters, tokens) of least loss for that many FLOPs
    law = fit(points); law.interval(points, 7e9, 1.4e12)
"""
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meristem.core.errors import MachineError, RequestError

# R*_D: epochs after which more repeats are worth (almost) nothing more; their table
REPEAT = 15.387756
HUBER = 1e-3
WIDE = 0.1                              # squares almost everywhere: no kinks to stop in on the way to the published fit
Number = int | float                    # counts are integers, effective counts are not
OWN = Path(__file__).parent / "law.json"
STARTS = 12                             # best points of the grid that are polished: of 4, all may lie in one valley
GRID = {"alpha": (0.0, 0.5, 1.0, 1.5, 2.0), "beta": (0.0, 0.5, 1.0, 1.5, 2.0), "e": (-1.0, -0.5, 0.0, 0.5, 1.0),
        "a": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), "b": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)}


@dataclass(frozen=True)
class Law:
    """L(N, D) and where its constants come from. `unit` is "nats/token" (D in tokens) or "bits/byte" (D in bytes)."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    unit: str = "nats/token"
    source: str = ""
    residual: float = 0.0               # standard deviation of log loss around the fit
    facts: dict[str, Any] = field(default_factory=dict)

    def loss(self, parameters: Number, data: Number, unique: Number = math.inf) -> float:
        """Expected loss; `unique` is how much distinct data there is, beyond which it is repeated."""
        return self.E + self.A / parameters**self.alpha + self.B / effective(data, unique)**self.beta

    def data_for(self, loss: float, parameters: Number, unique: Number = math.inf) -> float | None:
        """How much data brings so many parameters to a loss, repeats included; None when no amount does."""
        left = loss - self.E - self.A / parameters**self.alpha
        worth = (self.B / left) ** (1 / self.beta) if left > 0 else math.inf
        if worth <= unique < math.inf or worth < unique == math.inf:
            return worth
        share = (worth - unique) / (unique * REPEAT) if unique < math.inf else 1.0
        return unique * (1 - REPEAT * math.log1p(-share)) if share < 1 else None

    def optimal(self, flops: Number, cost: Number = 6) -> tuple[float, float]:
        """(N, D) of least loss with `cost` * N * D = `flops`, in closed form (their equation 4)."""
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        n = g * (flops / cost) ** (self.beta / (self.alpha + self.beta))
        return n, flops / cost / n

    def tokens_per_parameter(self, flops: Number) -> float:
        """D / N at the compute optimum."""
        n, d = self.optimal(flops)
        return d / n


HOFFMANN = Law(1.69, 406.4, 0.34, 410.7, 0.28,
               source="Hoffmann et al. 2022, equation 10 (rounded; gives 50 to 90 tokens a "
               "parameter, not the 20 of their approaches 1 and 2)")
EPOCH = Law(1.81686, 482.00572, 0.34781, 2085.434, 0.36585,
            source="Besiroglu et al. 2024, https://arxiv.org/abs/2404.10102")


@dataclass(frozen=True)
class Power:
    """y = (x / scale) ** exponent."""

    scale: float
    exponent: float

    def __call__(self, x: Number) -> float:
        return (x / self.scale) ** self.exponent

    @classmethod
    def fit(cls, x: Sequence[Number], y: Sequence[Number]) -> "Power":
        """Least squares in log-log."""
        slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
        return cls(math.exp(-intercept / slope), float(slope))


KAPLAN_PARAMETERS = Power(8.8e13, -0.076)       # Kaplan et al. 2020, equations 1.1 and 1.2: nats a token
KAPLAN_TOKENS = Power(5.4e13, -0.095)


def effective(data: Number, unique: Number) -> Number:
    """Data worth as much as `data` would be without repeats: U + U R* (1 - exp(-R / R*)), R = epochs - 1."""
    if data <= unique:
        return data
    return unique + unique * REPEAT * -math.expm1(-(data / unique - 1) / REPEAT)


def own() -> Law:
    """This project's law, fitted on its own trainer; MachineError when the package lacks it."""
    try:
        return Law(**json.loads(OWN.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MachineError(f"{OWN.name} of the scaling law is missing or unreadable ({error}); reinstall meristem, "
                           "or fit it with python -m benchmarks.ladder CORPUS --fit") from None


def to_json(law: Law) -> dict[str, Any]:
    """The law as `law.json` holds it."""
    return asdict(law)


Points = Float[np.ndarray, "R 3"]       # one run a row: N, D, loss


@dataclass(frozen=True)
class Prior:
    """What is known of the constants before any run: `strength` * (x - centre)^2 on the mean Huber loss.

    Exponents are pulled towards 0.35 (the published fits agree within 0.02): a ladder of a dozen small runs cannot tell
    five constants apart without it. With `centre` the logs of E, A and B are pulled too, a hundredth as hard, towards
    a law of other text: half a dozen runs move it, they do not replace it.
    """

    strength: float = 1e-3
    centre: Law | None = None

    def __call__(self, x: Float[Tensor, "S 5"]) -> Float[Tensor, "S"]:
        """The penalty of each row (alpha, beta, e, a, b)."""
        if self.centre is None:
            return self.strength * ((x[:, :2] - 0.35) ** 2).sum(1)
        return self.strength * ((x - _vector(self.centre)) ** 2 @ torch.tensor([1, 1, 0.01, 0.01, 0.01]).double())


FREE = Prior(0.0)


def fit(points: Points, *, unit: str = "nats/token", source: str = "", prior: Prior = FREE) -> Law:
    """Fit L(N, D) to runs: the best of a grid of 3,750 starts (and the prior's centre), polished by L-BFGS."""
    logs = _logs(points, prior)
    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in GRID.values()))
    if prior.centre:
        grid = torch.cat([grid, _vector(prior.centre)[None]])
    best = grid[_objective(grid, logs, prior, WIDE).topk(STARTS, largest=False).indices]
    smooth = _polish(best, logs, prior, WIDE)
    x = _polish(smooth[_objective(smooth, logs, prior, WIDE).topk(2, largest=False).indices], logs, prior)
    return _law(x[_objective(x, logs, prior).argmin()], logs, unit, source)


def bootstrap(points: Points, law: Law, *, draws: int = 100, seed: int = 0, prior: Prior = FREE) -> list[Law]:
    """Refits to resampled runs, each from `law`: the spread of anything computed from them is its interval."""
    rng = np.random.default_rng(seed)
    start = _vector(law)[None]
    laws = []
    for _ in range(draws):
        logs = _logs(points[rng.integers(0, len(points), len(points))], prior)
        laws.append(_law(_polish(start, logs, prior)[0], logs, law.unit, law.source))
    return laws


def interval(laws: Sequence[Law], parameters: Number, data: Number, unique: Number = math.inf, *, share: float = 0.8,
             seed: int = 0) -> tuple[float, float]:
    """The middle `share` of forecasts: each refit's curve with a draw of its own scatter of single runs around it."""
    noise = np.random.default_rng(seed).standard_normal((200, len(laws)))
    centre = np.array([law.loss(parameters, data, unique) for law in laws])
    spread = centre * np.exp(noise * [law.residual for law in laws])
    low, high = np.quantile(spread, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def objective(law: Law, points: Points) -> float:
    """Summed Huber loss (1e-3) of log loss, as the published fits report it."""
    return len(points) * float(_objective(_vector(law)[None], _logs(points), FREE)[0])


def _logs(points: Points, prior: Prior = FREE) -> Float[Tensor, "3 R"]:
    least = 4 if prior.strength else 6
    if len(points) < least or not np.isfinite(points).all() or (points <= 0).any():
        raise RequestError(f"a fit of five constants needs at least {least} runs of positive size, data and loss; "
                           f"there are {len(points)}")
    return torch.tensor(points, dtype=torch.float64).log().T


def _objective(x: Float[Tensor, "S 5"], logs: Float[Tensor, "3 R"], prior: Prior,
               delta: float = HUBER) -> Float[Tensor, "S"]:
    """Mean Huber loss for each row (alpha, beta, e, a, b); A = exp a, and so on, added up as a log-sum-exp."""
    alpha, beta, e, a, b = (column[:, None] for column in x.T)
    n, d, loss = logs
    guess = torch.stack(torch.broadcast_tensors(a - alpha * n, b - beta * d, e)).logsumexp(0)
    miss = torch.nn.functional.huber_loss(guess, loss.expand_as(guess), delta=delta, reduction="none").mean(1)
    return miss + prior(x)


def _polish(x: Float[Tensor, "S 5"], logs: Float[Tensor, "3 R"], prior: Prior,
            delta: float = HUBER) -> Float[Tensor, "S 5"]:
    """L-BFGS from each row by itself (a joint line search would stop at the first row that is done)."""
    done = []
    for start in x:
        point = start.clone().requires_grad_()
        solver = torch.optim.LBFGS([point], max_iter=400, history_size=20, tolerance_grad=1e-12, tolerance_change=1e-15,
                                   line_search_fn="strong_wolfe")

        def closure(point: Tensor = point, solver: torch.optim.LBFGS = solver) -> Tensor:
            solver.zero_grad()
            # in its natural size: 1e-3 is steep to L-BFGS
            value = _objective(point[None], logs, prior, delta)[0] / delta
            value.backward()
            return value

        solver.step(closure)
        done.append(point.detach())
    return torch.stack(done)


def _law(x: Float[Tensor, "5"], logs: Float[Tensor, "3 R"], unit: str, source: str) -> Law:
    alpha, beta, e, a, b = x.tolist()
    law = Law(math.exp(e), math.exp(a), alpha, math.exp(b), beta, unit, source)
    n, d, loss = logs.exp().numpy()
    miss = np.log(loss) - np.log(law.E + law.A / n**alpha + law.B / d**beta)
    return replace(law, residual=float(np.sqrt((miss**2).sum() / max(1, len(miss) - 5))))


def _vector(law: Law) -> Float[Tensor, "5"]:
    return torch.tensor([law.alpha, law.beta, math.log(law.E), math.log(law.A), math.log(law.B)], dtype=torch.float64)
