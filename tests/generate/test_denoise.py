"""Every sampler goes step by step where diffusers' goes, whatever the network was asked to predict."""
import math

import diffusers
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.generate.denoise import SAMPLERS, ddim, ddpm, dpm_solver, euler, guided, heun
from meristem.nn.noise import Schedule, split, wanted

SHAPE = (2, 3, 4, 4)
BETAS = {"linear": (1e-4, 0.02, "linear"), "scaled_linear": (0.00085, 0.012, "scaled_linear"),
         "cosine": (1e-4, 0.02, "squaredcos_cap_v2")}
THEIRS = {"noise": "epsilon", "start": "sample", "velocity": "v_prediction"}


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Something smooth that depends on the image and on the time."""
    return torch.tanh(0.7 * x + 0.3 * x.roll(1, -1)) * torch.cos(t / 300.0).reshape(-1, 1, 1, 1).to(x.dtype)


def start() -> torch.Tensor:
    """fp64: where sigma is 0.01, a slope is a hundred times the rounding of an image."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).double()


def theirs(name: str, kind: str, target: str, steps: int,
           **more: object) -> tuple[torch.Tensor, list[torch.Tensor], Schedule]:
    """The final image of diffusers' scheduler, every network input on the way, and our schedule with its fp32 numbers.

    At the first step 1 - alpha-bar is 1e-4, of which fp32 keeps three digits: the samplers are compared, not those.
    """
    first, last, beta = BETAS[kind]
    scheduler = getattr(diffusers, name)(beta_start=first, beta_end=last, beta_schedule=beta,
                                         prediction_type=THEIRS[target], **more)
    scheduler.set_timesteps(steps)
    x, seen = start() * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        seen.append(given)
        x = scheduler.step(network(given, t.reshape(1).expand(2)), t, x,
                           **({"generator": NOISE} if name == "DDPMScheduler" else {})).prev_sample
    schedule = Schedule(kind)
    torch.testing.assert_close(schedule.kept, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)
    vars(schedule)["kept"] = scheduler.alphas_cumprod.double()
    return x, seen, schedule


NOISE = torch.Generator()
PEERS = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}), "ddim": ("DDIMScheduler", {"clip_sample": False,
                                                                                 "set_alpha_to_one": False}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
}


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")     # diffusers hands tensors to numpy
@pytest.mark.parametrize("target", THEIRS)
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in PEERS for kind in BETAS
                                            if (name, kind) != ("heun", "cosine")])    # sigma 20,000: see below
def test_step_by_step(name: str, target: str, kind: str) -> None:
    peer, more = PEERS[name]
    NOISE.manual_seed(5)
    want, inputs, schedule = theirs(peer, kind, target, 10, **more)
    NOISE.manual_seed(5)
    seen: list[torch.Tensor] = []

    def said(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return network(x, t)

    got = SAMPLERS[name](said, start(), schedule, 10, target=target,
                         noise=lambda x: torch.randn(x.shape, generator=NOISE, dtype=x.dtype))
    assert len(seen) == len(inputs)
    scale = max(1.0, float(want.abs().max()))
    for ours, other in zip([*seen, got], [*inputs, want], strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5 * max(scale, float(other.abs().max())))


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_solver"])
def test_the_target_does_not_change_the_image(name: str) -> None:
    schedule = Schedule("linear", 50)

    def asked(target: str):
        def said(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            a, s = schedule.scales(t.round().long())
            return wanted(target, *split("noise", network(x, t), x, a, s), a, s)
        return said

    if name == "heun":                                         # its steps are fractional: all 50 of them are whole
        images = [SAMPLERS[name](asked(t), start(), schedule, 50, target=t) for t in THEIRS]
    else:
        images = [SAMPLERS[name](asked(t), start(), schedule, 10, target=t) for t in THEIRS]
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=0, atol=1e-5 * float(images[0].abs().max()))


@pytest.mark.parametrize("sampler", [ddim, heun, dpm_solver, ddpm])
def test_a_perfect_network_gives_the_distribution(sampler) -> None:
    """Data Normal(2, 0.5^2): the best guess of the noise is known, and samples have its mean and spread."""
    schedule, mean, spread = Schedule("linear"), 2.0, 0.5

    def said(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        low = t.floor().long()
        a, s = schedule.scales(low)
        a, s = a[:, None].to(x), s[:, None].to(x)
        return s * (x - a * mean) / (a**2 * spread**2 + s**2)

    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = 250 if sampler is ddpm else 50
    generator = torch.Generator().manual_seed(1)
    made = sampler(said, x, schedule, steps, noise=lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype))
    assert float(made.mean()) == pytest.approx(mean, abs=0.06)
    assert float(made.std()) == pytest.approx(spread, abs=0.04)


def test_a_straight_flow_is_followed_exactly_in_one_step_or_many() -> None:
    target = torch.full(SHAPE, 3.0, dtype=torch.float64)
    for steps in (1, 7, 100):
        made = euler(lambda x, t: (x - target) / ((t + 1) / 100).reshape(-1, 1, 1, 1), start(), Schedule("flow", 100),
                     steps)
        torch.testing.assert_close(made, target, rtol=0, atol=1e-4)
    with pytest.raises(RequestError, match="euler follows a flow"):
        euler(network, start(), Schedule("linear"), 5)


def test_guidance() -> None:
    x, t = start(), torch.tensor([3, 3])
    one, none = lambda x, t: x, lambda x, t: 3 * x             # noqa: E731
    assert torch.equal(guided(one, none, 1.0)(x, t), x)
    torch.testing.assert_close(guided(one, none, 4.0)(x, t), -5 * x)
    assert torch.equal(guided(one, none, 0.0)(x, t), 3 * x)


def test_heun_from_far_away() -> None:
    """On the cosine schedule sigma begins at 20,000, where one bit of diffusers' fp32 sigma is 0.001 of an image."""
    made = heun(network, start(), Schedule("cosine"), 10)
    assert made.isfinite().all() and float(made.abs().max()) < 1e5


def test_more_steps_than_there_are() -> None:
    for sampler in (ddpm, ddim, heun, dpm_solver):
        with pytest.raises(RequestError, match="give 1 to 20"):
            sampler(network, start(), Schedule("linear", 20), 21)
    assert math.isfinite(float(ddim(network, start(), Schedule("linear", 20), 20).sum()))
