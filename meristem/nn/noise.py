"""Noise schedules of diffusion models, and what a network can be asked to predict.

Ho et al. 2020, https://arxiv.org/abs/2006.11239 (linear); Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672
(cosine, section 3.2); Rombach et al. 2021, https://arxiv.org/abs/2112.10752 (the square roots of beta linear);
Salimans & Ho 2022, https://arxiv.org/abs/2202.00512 (velocity); Lipman et al. 2022, https://arxiv.org/abs/2210.02747
(flow); Lin et al. 2023, https://arxiv.org/abs/2305.08891 (`zero_snr`: nothing of the image is left at the last step).

At step t an image is x = a x0 + s e, with x0 clean and e Normal(0, 1). Any of the targets gives the others:

    noise e    start x0    velocity a e - s x0    flow e - x0
"""
import functools
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Target = Literal["noise", "start", "velocity", "flow"]
LIMIT = 0.999                           # largest beta (Improved DDPM, section 3.2): with 1 nothing would be left


@dataclass(frozen=True)
class Schedule:
    """How much noise there is at each of `steps` steps; "flow" goes straight from image to noise, a = 1 - s."""

    kind: Literal["linear", "scaled_linear", "cosine", "flow"] = "linear"
    steps: int = 1000
    start: float = 0.0                  # first and last beta; 0: 1e-4 and 0.02 (linear, for 1,000 steps), 0.00085 and
    end: float = 0.0                    # 0.012 (scaled_linear, Stable Diffusion's)
    zero_snr: bool = False
    offset: int = 0                     # the last "leading" step asked: 1 in Stable Diffusion's own pipeline
    of: int = 0                         # these are the first `steps` of so many: what image to image walks back

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"a schedule of {self.steps} steps is none; give 2 or more")
        if self.zero_snr and self.kind == "flow":
            raise ValueError("flow ends in pure noise by itself: leave out zero_snr")
        if self.of and self.of < self.steps:
            raise ValueError(f"{self.steps} steps are not the first ones of {self.of}")

    @property
    def whole(self) -> int:
        """The steps of the schedule that the model was trained with."""
        return self.of or self.steps

    @functools.cached_property
    def betas(self) -> Float64[Tensor, "T"]:
        """What each step of the whole schedule adds."""
        if self.kind == "cosine":
            at = torch.arange(self.whole + 1, dtype=torch.float64) / self.whole
            left = torch.cos((at + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - left[1:] / left[:-1]).clamp(max=LIMIT)
        assert self.kind != "flow", "flow is not made of steps that add noise"
        first, last = (self.start or 1e-4, self.end or 0.02) if self.kind == "linear" else (
            self.start or 0.00085, self.end or 0.012)
        if self.kind == "linear":
            if not self.start:                                 # Improved DDPM: the same noise in fewer steps
                first, last = (beta * 1000 / self.whole for beta in (first, last))
            return torch.linspace(first, last, self.whole, dtype=torch.float64).clamp(max=LIMIT)
        return torch.linspace(first**0.5, last**0.5, self.whole, dtype=torch.float64) ** 2

    @functools.cached_property
    def kept(self) -> Float64[Tensor, "T"]:
        """alpha-bar: the share of the image's variance that is left after each step; a is its square root."""
        if self.kind == "flow":
            at = torch.arange(1, self.steps + 1, dtype=torch.float64) / self.whole
            return (1 - at) ** 2
        kept = torch.cumprod(1 - self.betas, 0)
        if self.zero_snr:                                      # Lin et al., algorithm 1
            root = kept.sqrt()
            kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return kept[:self.steps]

    @functools.cached_property
    def before(self) -> Float64[Tensor, "T"]:
        """alpha-bar of the step before each; 1 before the first."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.kept[:-1]])

    @functools.cached_property
    def posterior(self) -> Float64[Tensor, "T"]:
        """Variance of a step back when the image is known (DDPM, equation 7); the first, which is 0, as the second."""
        spread = self.betas[:self.steps] * (1 - self.before) / (1 - self.kept)
        return torch.cat([spread[1:2], spread[1:]])

    @functools.cached_property
    def sigma(self) -> Float64[Tensor, "T"]:
        """s / a at each step: the noise beside an image that is not shrunk (Karras et al. 2022)."""
        a, s = self.scales(torch.arange(self.steps))
        return s / a

    def near(self, time: float) -> tuple[Tensor, Tensor]:
        """(a, s) at a step that may be fractional, with s / a between those of its neighbours."""
        low = int(time)
        if low == time or low + 1 >= self.steps:
            return self.scales(torch.tensor(min(low, self.steps - 1)))
        sigma = self.sigma[low].lerp(self.sigma[low + 1], time - low)
        a = 1 / (1 + sigma**2).sqrt()
        return a, sigma * a

    def scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) at whole steps, fp64."""
        kept = self.kept[steps]
        return kept.sqrt(), (1 - kept).sqrt() if self.kind != "flow" else 1 - kept.sqrt()


def add(x0: Float[Tensor, "B *N"], noise: Float[Tensor, "B *N"], a: Tensor, s: Tensor) -> Float[Tensor, "B *N"]:
    """a x0 + s e, with a and s a row [B] or one for all."""
    a, s = _like(a, x0), _like(s, x0)
    return a * x0 + s * noise


def wanted(target: Target, x0: Float[Tensor, "B *N"], noise: Float[Tensor, "B *N"], a: Tensor,
           s: Tensor) -> Float[Tensor, "B *N"]:
    """What a network with this target should say."""
    if target == "noise":
        return noise
    if target == "start":
        return x0
    return noise - x0 if target == "flow" else _like(a, x0) * noise - _like(s, x0) * x0


def split(target: Target, said: Float[Tensor, "B *N"], x: Float[Tensor, "B *N"], a: Tensor,
          s: Tensor) -> tuple[Tensor, Tensor]:
    """(x0, e) from what a network said about x = a x0 + s e.

    Velocity needs a^2 + s^2 = 1; "noise" says nothing about x0 where a is 0 (zero_snr): take another target there.
    """
    a, s = _like(a, x), _like(s, x)
    if target == "noise":
        return (x - s * said) / a, said
    if target == "start":
        return said, (x - a * said) / s
    if target == "velocity":
        return a * x - s * said, s * x + a * said
    return (x - s * said) / (a + s), (x + a * said) / (a + s)


def _like(scale: Tensor, x: Tensor) -> Tensor:
    return scale.to(x).reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale.to(x)
