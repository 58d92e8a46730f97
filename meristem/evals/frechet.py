"""The Frechet distance between two sets of pictures, in the features of a fixed network of our own, with its interval.

Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6: the distance of two Normals fitted to features. The
network is drawn, not trained: on pictures that are no photographs a random one ranks generators more soundly than one
that learned ImageNet (Naeem et al. 2020, https://arxiv.org/abs/2002.09797, section 4.3, "R64"). Its weights are a
function of SEED, so that a number means the same on every machine; numbers of other feature networks do not compare.

The plain estimate is too large by about 1/n. What is given is its jackknife (Quenouille 1956): the mean of n pseudo-
values, one a pair of pictures, without that first bias; their bootstrap is the interval.

    values = pseudo(features(real), features(made)); values.mean()
"""
import functools

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from meristem.core.random import seed_of
from meristem.nn.image import between

SEED = seed_of("frechet", 1)            # of the weights: another one is another measure
SIDE, WIDTHS, DIM = 32, (32, 64, 128), 64
TOGETHER = 256


@functools.cache
def weights() -> tuple[Float[Tensor, "O I 3 3"], ...]:
    """Three convolutions, He-scaled Normal, and the map of the pooled channels to DIM orthonormal directions."""
    rng = np.random.default_rng(SEED)
    made, before = [], 3
    for width in WIDTHS:
        drawn = rng.standard_normal((width, before, 3, 3)) * (2 / (9 * before)) ** 0.5
        made.append(torch.from_numpy(drawn).float())
        before = width
    down = np.linalg.qr(rng.standard_normal((2 * sum(WIDTHS), DIM)))[0]
    return (*made, torch.from_numpy(down).float()[:, :, None, None])


@torch.no_grad()
def features(pixels: UInt8[np.ndarray, "N C H W"]) -> Float64[Tensor, "N D"]:
    """Mean and spread of every channel after each of three layers (relu, halved), as DIM numbers a picture."""
    *layers, down = weights()
    found = []
    for start in range(0, len(pixels), TOGETHER):
        x = between(torch.from_numpy(np.array(pixels[start:start + TOGETHER])))
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate(x, size=(SIDE, SIDE), mode="area") if x.shape[-1] != SIDE else x
        pooled = []
        for layer in layers:
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer))
            pooled += [x.mean((2, 3)), x.std((2, 3))]
            x = F.avg_pool2d(x, 2)
        found.append((torch.cat(pooled, 1) @ down[:, :, 0, 0]).double())
    return torch.cat(found)


def distance(a: Float64[Tensor, "N D"], b: Float64[Tensor, "M D"]) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), the plain estimate."""
    return float(_distance(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)))


def pseudo(a: Float64[Tensor, "N D"], b: Float64[Tensor, "N D"]) -> Float64[Tensor, "N"]:
    """Jackknife pseudo-values n d - (n - 1) d without pair i: their mean is the distance without its bias of 1/n."""
    n, whole = len(a), distance(a, b)
    assert n == len(b) > 2
    parts = []
    for i in range(n):
        rest = [_without(x.mean(0), torch.cov(x.T), x[i], n) for x in (a, b)]
        parts.append(_distance(*rest[0], *rest[1]))
    return n * whole - (n - 1) * torch.stack(parts)


def _without(mean: Tensor, cov: Tensor, row: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of n rows without one of them."""
    off = row - mean
    return mean - off / (n - 1), ((n - 1) * cov - n / (n - 1) * torch.outer(off, off)) / (n - 2)


def _distance(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(c1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
    return (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * shared
