"""The Frechet distance: zero for one distribution, Gaussians by formula, larger the more is wrong with pictures."""
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from meristem.data.scenes import Scenes, draw
from meristem.evals.frechet import distance, features, pseudo


def pictures(start: int, count: int = 150) -> np.ndarray:
    kind = Scenes(side=32, held_out=0.0)
    return np.stack([draw(kind.scene("train", n)[0], 32)[0] for n in range(start, start + count)])


def test_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    want = ((a.mean(0) - b.mean(0))**2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(want, rel=1e-8)


def test_each_pseudo_value_leaves_one_pair_out_and_their_mean_has_no_bias() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    keep = torch.arange(40) != 7
    assert float(pseudo(a, b)[7]) == pytest.approx(40 * distance(a, b) - 39 * distance(a[keep], b[keep]))
    plain, better = [], []
    for _ in range(20):
        a, b = (torch.randn(40, 3, generator=rng, dtype=torch.float64) for _ in range(2))
        plain.append(distance(a, b))
        better.append(float(pseudo(a, b).mean()))
    assert np.mean(plain) > 0.15 and abs(np.mean(better)) < 0.25 * np.mean(plain)


def test_worse_pictures_are_farther() -> None:
    real, other = features(pictures(0)), pictures(1000)
    noise = np.random.default_rng(0).normal(0, 1, other.shape)
    noisy = [float(pseudo(real, features((other + s * noise).clip(0, 255).astype(np.uint8))).mean())
             for s in (0, 8, 30)]
    one_colour = np.where(other < 200, other.mean(1, keepdims=True).astype(np.uint8), other)
    assert abs(noisy[0]) < 0.3 * noisy[1] < 0.3 * noisy[2]
    assert float(pseudo(real, features(one_colour)).mean()) > 5 * abs(noisy[0])


def test_grey_pictures_and_other_sizes_are_seen() -> None:
    rows = pictures(0, 3)
    large = rows.repeat(2, 2).repeat(2, 3)
    torch.testing.assert_close(features(large), features(rows), atol=1e-5, rtol=0)
    grey = rows[:, :1]
    torch.testing.assert_close(features(grey), features(grey.repeat(3, 1)), atol=1e-5, rtol=0)
