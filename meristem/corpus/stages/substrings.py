"""Long passages that stood before are cut out: exact-substring deduplication by a suffix array.

Lee et al. 2022, "Deduplicating training data makes language models better", https://arxiv.org/abs/2107.06499, section
4.1: every run of at least `length` bytes (the paper: 50 tokens) that also stands earlier is removed, so its first
copy stays. As a stage it sees one batch at a time; `meristem curate --stages substrings` therefore cuts what repeats
within a batch (a document's own repeats, pages of one site), and `cut` takes any number of texts at once. Needs
pydivsufsort (extra `trace`). Facts: `cut` = [[start, stop, document], ...], places in the text given, and the id of the
document that has the first copy.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes
from meristem.corpus.stages.base import Batch

BETWEEN = b"\xff"                       # in no UTF-8, so that no match crosses two texts


@dataclass(frozen=True)
class Stage:
    """`length`: the fewest bytes of a passage that is cut; `kinds`: of which documents, parted by commas."""

    length: int = 200
    kinds: str = "prose"

    def __call__(self, batch: Batch) -> Batch:
        """The batch with repeated passages removed; a document of which nothing is left is dropped: `substrings`."""
        wanted = self.kinds.split(",")
        which = [n for n, (rule, kind) in enumerate(zip(batch["rule"], batch["kind"], strict=True))
                 if not rule and kind in wanted]
        texts, facts, rules, values = (list(batch[key]) for key in ("text", "facts", "rule", "value"))
        for n, (left, cuts) in zip(which, cut([texts[n] for n in which], self.length), strict=True):
            if cuts:
                told = [[a, b, digest_bytes(batch["text"][which[twin]].encode())] for a, b, twin in cuts]
                texts[n], facts[n] = left, {**facts[n], "cut": told}
                if not left.strip():
                    rules[n], values[n] = "substrings", sum(b - a for a, b, _ in cuts)
        return {**batch, "text": texts, "facts": facts, "rule": rules, "value": values}


def cut(texts: Sequence[str], length: int) -> list[tuple[str, list[tuple[int, int, int]]]]:
    """(the text without them, [(first character, one past the last, text that has the first copy)]) for each text.

    RequestError without pydivsufsort and for a length under 20 bytes, which would cut phrases.
    """
    if length < 20:
        raise RequestError(f"substrings:length is {length}; phrases repeat, passages of 20 bytes or more are copies")
    try:
        divsufsort = import_module("pydivsufsort").divsufsort
    except ImportError:
        raise RequestError("the stage substrings needs a package: pip install pydivsufsort") from None
    raws = [text.encode("utf-8", "surrogatepass") for text in texts]
    whole = np.frombuffer(bytearray(b"".join(raw + BETWEEN for raw in raws)), dtype=np.uint8)
    if not len(whole):
        return []
    starts = np.cumsum([0, *(len(raw) + 1 for raw in raws)])
    earlier = _earlier(whole, divsufsort(whole).astype(np.int64), length)
    return [_without(raw, earlier[start: start + len(raw)], length, starts)
            for raw, start in zip(raws, starts[:-1].tolist(), strict=True)]


def _earlier(text: np.ndarray, order: np.ndarray, length: int) -> np.ndarray:
    """For each place the first place where the same `length` bytes stand, -1 where they cross texts or stand nowhere
    before."""
    out = np.full(len(text), -1, dtype=np.int64)
    usable = order[order <= len(text) - length]
    if not len(usable):
        return out
    hashes = _windows(text, length)                            # suffixes that begin alike are neighbours in `order`
    same = hashes[usable][1:] == hashes[usable][:-1]
    group = np.concatenate([[0], np.cumsum(~same)])
    first = np.full(int(group[-1]) + 1, len(text), dtype=np.int64)
    np.minimum.at(first, group, usable)
    out[usable] = np.where(first[group] < usable, first[group], -1)
    ends = np.cumsum(text == BETWEEN[0])
    crossing = np.zeros(len(text), dtype=bool)
    crossing[: len(text) - length + 1] = ends[length - 1:] != np.concatenate([[0], ends[: len(text) - length]])
    out[crossing] = -1
    return out


def _windows(text: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of the `length` bytes from each place on, by doubling: Karp, Miller and Rosenberg 1972."""
    hashes = text.astype(np.uint64) + np.uint64(1)
    size, odd = 1, 0x9E3779B97F4A7C15
    while size < length:
        step = min(size, length - size)
        shifted = np.zeros_like(hashes)
        shifted[: len(hashes) - step] = hashes[step:]
        hashes = (hashes * np.uint64(odd) ^ (hashes >> np.uint64(29))) + shifted * np.uint64((odd * (size + 2)) % 2**64)
        hashes ^= hashes >> np.uint64(32)
        size += step
    return hashes


def _without(raw: bytes, earlier: np.ndarray, length: int,
             starts: np.ndarray) -> tuple[str, list[tuple[int, int, int]]]:
    """One text without its repeated passages; borders move inwards to whole characters."""
    begins = np.flatnonzero(earlier >= 0)
    cuts: list[tuple[int, int, int]] = []
    kept: list[bytes] = []
    at = 0
    runs = np.split(begins, np.flatnonzero(np.diff(begins) > 1) + 1) if len(begins) else []
    for run in runs:
        start, stop = max(int(run[0]), at), int(run[-1]) + length
        while start < stop and raw[start] & 0xC0 == 0x80:
            start += 1
        while stop > start and stop < len(raw) and raw[stop] & 0xC0 == 0x80:
            stop -= 1
        if start >= stop:
            continue
        kept.append(raw[at:start])
        twin = int(np.searchsorted(starts, earlier[run[0]], "right")) - 1
        place = len(raw[:start].decode("utf-8", "surrogatepass"))
        cuts.append((place, place + len(raw[start:stop].decode("utf-8", "surrogatepass")), twin))
        at = stop
    return b"".join([*kept, raw[at:]]).decode("utf-8", "surrogatepass"), cuts
