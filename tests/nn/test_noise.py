"""Noise schedules have their published constants; each target gives the others."""
import itertools

import pytest
import torch

from meristem.nn.noise import Schedule, add, split, wanted

TARGETS = ("noise", "start", "velocity", "flow")


@pytest.mark.parametrize(("schedule", "step", "want"), [
    (Schedule("linear"), 1000, 4.035830e-05),                  # improved-diffusion's gaussian_diffusion.py
    (Schedule("linear"), 500, 0.0785872),
    (Schedule("cosine"), 500, 0.4938436),
    (Schedule("cosine"), 1000, 2.43e-09),
    (Schedule("scaled_linear"), 1000, 0.00466010),             # Stable Diffusion's v1-inference.yaml
])
def test_published_constants(schedule: Schedule, step: int, want: float) -> None:
    assert float(schedule.kept[step - 1]) == pytest.approx(want, rel=3e-3 if want < 1e-8 else 1e-5)


def test_the_first_cosine_beta() -> None:
    assert float(Schedule("cosine").betas[0]) == pytest.approx(4.128422e-05, rel=1e-5)
    assert float(Schedule("cosine").betas.max()) == 0.999


def test_fewer_linear_steps_add_the_same_noise() -> None:
    few, many = (float(Schedule("linear", steps).kept[-1].log()) for steps in (100, 1000))
    assert few == pytest.approx(many, rel=0.1)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_zero_terminal_snr(kind: str) -> None:
    plain, mended = Schedule(kind), Schedule(kind, zero_snr=True)
    assert float(mended.kept[-1]) == 0.0 and float(plain.kept[-1]) > 0
    assert float(mended.kept[0]) == pytest.approx(float(plain.kept[0]), rel=1e-12)
    assert (mended.kept.diff() < 0).all()


@pytest.mark.parametrize("kind", ["linear", "cosine", "flow"])
def test_each_target_gives_the_others(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, e = (torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    schedule = Schedule(kind, 100)
    a, s = schedule.scales(torch.tensor([0, 10, 50, 80, 97]))
    x = add(x0, e, a, s)
    for target in TARGETS:
        if target == "velocity" and kind == "flow":
            continue                                           # a^2 + s^2 is not 1 on a straight path
        got = split(target, wanted(target, x0, e, a, s), x, a, s)
        torch.testing.assert_close(got[0], x0, rtol=0, atol=1e-10)
        torch.testing.assert_close(got[1], e, rtol=0, atol=1e-10)
    said = {t: wanted(t, x0, e, a, s) for t in TARGETS}
    assert not any(torch.equal(said[p], said[q]) for p, q in itertools.combinations(TARGETS, 2))


def test_schedules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        Schedule(steps=1)
    with pytest.raises(ValueError, match="leave out zero_snr"):
        Schedule("flow", zero_snr=True)
