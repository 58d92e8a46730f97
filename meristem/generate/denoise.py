"""Samplers of diffusion models: from noise to an image, each a function of one signature.

    sampler(said, x, schedule, steps, target=, noise=) -> x0

`said(x, t)` is what the network predicts for images x [B, ...] at step t [B]; `noise(x)` draws fresh noise like x,
which only DDPM asks for. Steps are counted as diffusers counts them: DDPM and DDIM "leading", Heun and DPM-Solver++
"linspace".
Classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) is `guided`, around any `said`.

    picture = ddim(said, torch.randn(4, 3, 32, 32), Schedule("cosine"), 50, target="velocity")
"""
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meristem.core.errors import RequestError
from meristem.nn.noise import Schedule, Target, add, split, wanted

Said = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]


def guided(with_condition: Said, without: Said, scale: float) -> Said:
    """without + scale (with - without): 1 is the condition alone, more follows it more closely."""
    if scale == 1.0:
        return with_condition

    def said(x: Tensor, t: Tensor) -> Tensor:
        alone = without(x, t)
        return alone + scale * (with_condition(x, t) - alone)
    return said


def agreeing(said: Said, schedule: Schedule, target: Target, change: Callable[[Tensor], Tensor]) -> Said:
    """`said`, whose clean image is `change(clean image)` at every step, the noise following from it.

    With `where(known, picture, x0)` the known part is kept exactly and the rest painted to fit: the null space of
    inpainting (Wang et al. 2022, https://arxiv.org/abs/2212.00490, equation 13); with `clamp(-1, 1)` it is DDPM's.
    """
    def changed(x: Tensor, t: Tensor) -> Tensor:
        a, s = schedule.near(float(t[0]))
        x0 = change(split(target, said(x, t), x, a, s)[0])
        a, s = a.to(x), s.to(x)
        return wanted(target, x0, (x - a * x0) / s, a, s)
    return changed


def begun(sampler: str, x0: Float[Tensor, "B *N"], noise: Float[Tensor, "B *N"], schedule: Schedule,
          steps: int) -> Float[Tensor, "B *N"]:
    """What a sampler starts from to go back from a picture with noise (Meng et al. 2021, https://arxiv.org/abs/2108.01073,
    section 3): `schedule` are the steps that it walks, the noise that of the first one asked."""
    first = leading(schedule, steps)[0] if sampler in ("ddpm", "ddim") else schedule.steps - 1
    a, s = schedule.scales(torch.tensor(first))
    x = add(x0, noise, a, s)
    return x / s.to(x) if sampler == "heun" else x             # Heun multiplies by sigma: x0 is not shrunk there


def leading(schedule: Schedule, steps: int) -> list[int]:
    """`steps` steps from the last towards 0, evenly spaced; the last one asked is 0, or the schedule's offset."""
    _check(schedule, steps)
    return [min(i * (schedule.steps // steps) + schedule.offset, schedule.steps - 1) for i in reversed(range(steps))]


def ddpm(said: Said, x: Float[Tensor, "B *N"], schedule: Schedule, steps: int, *, target: Target = "noise",
         noise: Noise = torch.randn_like) -> Float[Tensor, "B *N"]:
    """Ancestral sampling: Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 2, with the smaller variance."""
    asked = leading(schedule, steps)
    for t in asked:
        now, before = _kept(schedule, t), _kept(schedule, t - schedule.steps // steps)
        x0 = _clean(said, x, schedule, t, target)[0]
        alpha = now / before                                   # what this jump keeps
        mean = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x) / (1 - now)
        spread = ((1 - before) / (1 - now) * (1 - alpha)).clamp(min=1e-20).sqrt()
        x = mean.to(x.dtype) if t == asked[-1] else (mean + spread * noise(x)).to(x.dtype)
    return x


def ddim(said: Said, x: Float[Tensor, "B *N"], schedule: Schedule, steps: int, *, target: Target = "noise",
         noise: Noise = torch.randn_like) -> Float[Tensor, "B *N"]:
    """Deterministic implicit sampling: Song et al. 2020, https://arxiv.org/abs/2010.02502, equation 12 with eta 0."""
    for t in leading(schedule, steps):
        x0, e = _clean(said, x, schedule, t, target)
        before = _kept(schedule, t - schedule.steps // steps, last=_kept(schedule, 0))
        x = (before.sqrt() * x0 + (1 - before).sqrt() * e).to(x.dtype)
    return x


def heun(said: Said, x: Float[Tensor, "B *N"], schedule: Schedule, steps: int, *, target: Target = "noise",
         noise: Noise = torch.randn_like) -> Float[Tensor, "B *N"]:
    """Heun's second-order method: Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 1 (asks twice)."""
    times, sigmas = _linear(schedule, steps)
    x = x * sigmas[0]                                          # an image that is not shrunk: all of it is noise

    def slope(x: Tensor, i: int) -> Tensor:
        return (x - _unshrunk(said, x, times[i], sigmas[i], target)) / sigmas[i]

    for i in range(steps):
        first = slope(x, i)
        ahead = x + (sigmas[i + 1] - sigmas[i]) * first
        if sigmas[i + 1] > 0:
            ahead = x + (sigmas[i + 1] - sigmas[i]) * (first + slope(ahead, i + 1)) / 2
        x = ahead
    return x


def dpm_solver(said: Said, x: Float[Tensor, "B *N"], schedule: Schedule, steps: int, *, target: Target = "noise",
               noise: Noise = torch.randn_like) -> Float[Tensor, "B *N"]:
    """DPM-Solver++(2M): Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2; first order at both ends."""
    _check(schedule, steps)
    times = np.linspace(0, schedule.steps - 1, steps + 1).round()[::-1][:-1].astype(int)
    kept = [float(schedule.kept[int(t)]) for t in times]
    sigmas = [((1 - k) / k) ** 0.5 for k in kept] + [0.0]
    before: Tensor | None = None
    last = 0.0
    for i, t in enumerate(times):
        s = sigmas[i] / (sigmas[i] ** 2 + 1) ** 0.5
        x0 = _clean(said, x, schedule, int(t), target)[0]
        b = 1 / (sigmas[i + 1] ** 2 + 1) ** 0.5
        if sigmas[i + 1] == 0:                                 # the last step goes to the image itself
            return x0
        step = float(np.log(sigmas[i] / sigmas[i + 1]))        # in log signal-to-noise
        if before is None:
            direction = x0
        else:
            ratio = last / step
            direction = x0 + (x0 - before) / (2 * ratio)
        x = (sigmas[i + 1] * b / s) * x + b * (1 - float(np.exp(-step))) * direction
        before, last = x0, step
    return x


def euler(said: Said, x: Float[Tensor, "B *N"], schedule: Schedule, steps: int, *, target: Target = "flow",
          noise: Noise = torch.randn_like) -> Float[Tensor, "B *N"]:
    """Euler's method along the straight path of a "flow" schedule: Liu et al. 2022, https://arxiv.org/abs/2209.03003."""
    if schedule.kind != "flow":
        raise RequestError(f"euler follows a flow; with a {schedule.kind} schedule take ddim, heun or dpm_solver")
    asked = leading(schedule, steps)
    late = schedule.steps - 1 - asked[0]                       # the first one asked is the last step
    shares = [(t + late + 1) / schedule.whole for t in asked] + [0.0]          # of noise
    for i, t in enumerate(asked):
        time = torch.full((len(x),), t + late, device=x.device)
        s = torch.tensor(shares[i])
        x0, e = split(target, said(x, time), x, 1 - s, s)
        x = x + (shares[i + 1] - shares[i]) * (e - x0)
    return x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "dpm_solver": dpm_solver, "euler": euler}


def _check(schedule: Schedule, steps: int) -> None:
    if not 1 <= steps <= schedule.steps:
        raise RequestError(f"{steps} steps: give 1 to {schedule.steps}, the steps that the model was trained with")


def _kept(schedule: Schedule, t: int, last: Tensor | None = None) -> Tensor:
    """alpha-bar at a step; before the first it is `last`, or 1."""
    if t >= 0:
        return schedule.kept[t]
    return torch.tensor(1.0, dtype=torch.float64) if last is None else last


def _clean(said: Said, x: Tensor, schedule: Schedule, t: int, target: Target) -> tuple[Tensor, Tensor]:
    time = torch.full((len(x),), t, device=x.device)
    a, s = schedule.scales(torch.tensor(t))
    return split(target, said(x, time), x, a, s)


def _linear(schedule: Schedule, steps: int) -> tuple[list[float], list[float]]:
    """Evenly spaced, fractional steps from the last to 0, and sigma at each (interpolated), ending in 0."""
    _check(schedule, steps)
    times = np.linspace(0, schedule.steps - 1, steps)[::-1]
    sigmas = np.interp(times, np.arange(schedule.steps), schedule.sigma.numpy())
    return times.tolist(), [*sigmas.tolist(), 0.0]


def _unshrunk(said: Said, x: Tensor, t: float, sigma: float, target: Target) -> Tensor:
    """The clean image that the network sees in x = x0 + sigma e."""
    a = torch.tensor(1 / (sigma**2 + 1) ** 0.5)
    shrunk = x * a.to(x)
    return split(target, said(shrunk, torch.full((len(x),), t, device=x.device)), shrunk, a, sigma * a)[0]
