"""Randomness as a pure function of names and numbers: nothing about generators is ever saved.

`seed_of(seed, "dropout", step)` is a 63-bit integer; equal arguments give equal numbers on every machine and after
every restart. `permute` is a keyed permutation of 0..n-1 evaluated pointwise (a balanced Feistel network with cycle
walking, Black & Rogaway 2002 section 3), so a shuffled order over 10^12 rows needs no table.
"""
from collections.abc import Callable

import numpy as np
import xxhash

ROUNDS = 6


def seed_of(*keys: int | str) -> int:
    """A 63-bit seed from any mixture of integers and words: `seed_of(run.seed, "order", epoch)`."""
    plain = tuple(k if isinstance(k, str) else int(k) for k in keys)       # repr(np.int64(3)) is not "3"
    return xxhash.xxh3_64_intdigest(repr(plain).encode()) >> 1


def permute(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where each of `index` (int64, any shape, values in 0..n-1) lands in the permutation of 0..n-1 named by `key`."""
    return _walk(_feistel, index, n, key)


def inverse(place: np.ndarray, n: int, key: int) -> np.ndarray:
    """Which index lands on each of `place` in the permutation of 0..n-1 named by `key`: `permute` undone."""
    return _walk(_backwards, place, n, key)


def _walk(network: Callable[..., np.ndarray], start: np.ndarray, n: int, key: int) -> np.ndarray:
    """`network` applied until every value is below n again."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.array([seed_of(key, "feistel", r) for r in range(ROUNDS)], dtype=np.uint64)
    out = np.asarray(start).astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        out[outside] = network(out[outside], half, mask, keys)
        outside = out >= np.uint64(n)
    return out.astype(np.int64)


def uniform(keys: np.ndarray, place: int | np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each of `keys` (uint64 [N]) at a place of their streams, or each at its own; float64."""
    with np.errstate(over="ignore"):
        mixed = _mix(keys + np.asarray(place + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)) * 2.0**-53


def later(keys: np.ndarray, places: int) -> np.ndarray:
    """The streams of `keys` from so many places on: `uniform(later(keys, n), place)` is `uniform(keys, n + place)`."""
    with np.errstate(over="ignore"):
        return keys + np.uint64(places) * np.uint64(0x9E3779B97F4A7C15)


def _feistel(x: np.ndarray, half: int, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = x >> np.uint64(half), x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << np.uint64(half)) | right


def _backwards(x: np.ndarray, half: int, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = x >> np.uint64(half), x & mask
    for key in keys[::-1]:
        left, right = right ^ (_mix(left ^ key) & mask), left
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
