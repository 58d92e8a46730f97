"""A watermark in generated text and pictures, that nobody sees and who has the key finds.

Text: Kirchenbauer et al. 2023, https://arxiv.org/abs/2301.10226, algorithm 2 ("soft red list"): the token before names,
with the key, which SHARE of the vocabulary is green, and green logits rise by DELTA. The detector counts green tokens,
each pair of tokens once: z = (green - SHARE n) / sqrt(n SHARE (1 - SHARE)); above 4 chance is 3e-5.

    generate(module, prompts, Sampling(length=64, temperature=1.0, watermark="key"))
    Key("key", vocab).found(ids)        # Found(z=9.1, tokens=63)

Pictures: spread spectrum (Cox et al. 1997, IEEE TIP 6(12)): a pattern of the key's, +1 or -1 in middle frequencies of
the discrete cosine transform, times a strength; the detector correlates. It withstands JPEG, not turning or cropping.

    marked = mark(pixels, "key"); trace(marked, "key")         # z of each picture
"""
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from meristem.core.random import seed_of

SHARE, DELTA = 0.25, 2.0                # of the vocabulary; added to green logits (the paper's section 6)
STRENGTH = 4.0                          # of 255, root mean square of the pattern in a picture
LOW, HIGH = 0.15, 0.6                   # frequencies that carry the pattern, as shares of the highest


@dataclass(frozen=True)
class Found:
    """How many standard errors more green tokens than by chance, and out of how many."""

    z: float
    tokens: int


@dataclass(frozen=True)
class Key:
    """A secret word and the vocabulary it divides."""

    word: str
    vocab: int

    def green(self, before: int) -> Bool[Tensor, "V"]:
        """Which tokens are green after a token."""
        return _green(self.word, self.vocab, int(before))

    def found(self, ids: Sequence[int] | np.ndarray) -> Found:
        """The detector's verdict on a text's ids; each pair of neighbours counts once."""
        pairs = set(zip([int(i) for i in ids[:-1]], [int(i) for i in ids[1:]], strict=True))
        hits = sum(bool(self.green(a)[b]) for a, b in pairs)
        spread = math.sqrt(len(pairs) * SHARE * (1 - SHARE)) or 1.0
        return Found((hits - SHARE * len(pairs)) / spread, len(pairs))


class Marking:
    """Raises the green logits of one row; see `base.Control`."""

    def __init__(self, word: str, prompt: Sequence[int], vocab: int):
        self.key, self.last = Key(word, vocab), int(prompt[-1])

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits plus DELTA where the token is green."""
        return logits + DELTA * self.key.green(self.last)[:logits.shape[-1]].to(logits.dtype)

    def push(self, token: int) -> None:
        """This token was written."""
        self.last = token

    def copy(self) -> "Marking":
        """The same, going its own way from here."""
        return Marking(self.key.word, [self.last], self.key.vocab)


def mark(pixels: UInt8[np.ndarray, "N C H W"], key: str, strength: float = STRENGTH) -> UInt8[np.ndarray, "N C H W"]:
    """Pictures with the key's pattern added to every channel."""
    pattern = strength * _pattern(key, pixels.shape[-2], pixels.shape[-1])
    return (pixels.astype(np.float32) + pattern).round().clip(0, 255).astype(np.uint8)


def trace(pixels: UInt8[np.ndarray, "N C H W"], key: str) -> Float[np.ndarray, "N"]:
    """z of each picture: the correlation of its middle frequencies with the key's signs, chance being a normal one."""
    height, width = pixels.shape[-2:]
    rows, columns = _cosines(height), _cosines(width)
    spectrum = rows @ pixels.astype(np.float64).mean(1) @ columns.T            # [N, H, W]
    band, signs = _band(height, width), _signs(key, height, width)
    carried = spectrum[:, band]
    carried = carried / np.maximum(np.abs(carried), 1e-9) * np.minimum(np.abs(carried), 3 * np.median(
        np.abs(carried), 1, keepdims=True))                    # a strong edge must not outvote the pattern
    scale = np.sqrt((carried**2).sum(1)) + 1e-9
    return (carried @ signs[band]) / scale


@functools.lru_cache(1 << 14)
def _green(word: str, vocab: int, before: int) -> Bool[Tensor, "V"]:
    order = np.random.default_rng(seed_of("watermark", word, before)).permutation(vocab)
    out = torch.zeros(vocab, dtype=torch.bool)
    out[order[:round(SHARE * vocab)].copy()] = True
    return out


@functools.cache
def _cosines(size: int) -> np.ndarray:
    """The orthonormal discrete cosine transform (type 2), [frequency, place]."""
    k, n = np.arange(size)[:, None], np.arange(size)[None]
    out = np.sqrt(2 / size) * np.cos(np.pi * (n + 0.5) * k / size)
    out[0] /= math.sqrt(2)
    return out


@functools.cache
def _band(height: int, width: int) -> np.ndarray:
    """Which frequencies carry the pattern."""
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width)[None] / width) / math.sqrt(2)
    return (radius >= LOW) & (radius <= HIGH)


def _signs(key: str, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed_of("pattern", key, height, width)).choice([-1.0, 1.0], (height, width))


def _pattern(key: str, height: int, width: int) -> np.ndarray:
    """The pattern in pixels, root mean square 1."""
    spectrum = _signs(key, height, width) * _band(height, width)
    pattern = _cosines(height).T @ spectrum @ _cosines(width)
    return (pattern / np.sqrt((pattern**2).mean())).astype(np.float32)
