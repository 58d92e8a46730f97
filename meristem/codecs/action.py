"""Numbers as words: 256 tokens of a text vocabulary stand for the 256 bins of a number between -1 and 1 (RT-2).

Brohan et al. 2023, https://arxiv.org/abs/2307.15818 (section 3.2); RT-1, https://arxiv.org/abs/2212.06817 (section 5:
256 uniform bins a dimension). The language model predicts a bin as it predicts a word, and the vocabulary is its own.

    codec = action.fit(texts, vocab=1024); bins = Bins.of(codec)
    bins.values(bins.ids(np.array([0.3, -1.0])))               # within 1/256 of them: half a bin

As an entry of this folder (`data.codec.name=action`) it is a byte-level BPE whose first special tokens are <|image|>
and the bins. Nobody can spell one in a text. `Ranges` brings what a robot reports to -1 .. 1 and back, as fitted to its
data: a data set keeps its own in `ranges.json`, and one model serves several (docs/robots.md).
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32

from meristem.codecs import bpe
from meristem.codecs.base import Codec, Fast
from meristem.codecs.chat import IMAGE
from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json

SPLITS = bpe.SPLITS
BINS = 256
TOKENS = tuple(f"<|{number}|>" for number in range(BINS))
FILE = "ranges.json"


def fit(texts: Iterable[str], vocab: int, special: Sequence[str] = ()) -> bpe.Bpe:
    """A byte-level BPE in which <|image|> has the id 1, the bins 2 to 257; further `special` tokens follow."""
    return bpe.fit(texts, vocab, (IMAGE, *TOKENS, *special))


load = bpe.load


@dataclass(frozen=True)
class Bins:
    """The tokens of numbers: `first` is the id of the lowest bin."""

    first: int

    @classmethod
    def of(cls, codec: Codec) -> "Bins":
        """Those of a codec; RequestError for one without."""
        ids = [codec.special.get(token, -1) for token in (TOKENS[0], TOKENS[-1])] if isinstance(codec, Fast) else [-1]
        if ids[0] < 0 or ids[-1] - ids[0] != BINS - 1:
            raise RequestError("this tokenizer has no words for numbers; take data.codec.name=action, from pretraining "
                               "on")
        return cls(ids[0])

    def ids(self, values: Float[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n"]:
        """The tokens of some numbers; what lies beyond -1 or 1 takes the outermost bin."""
        bins = np.floor((np.asarray(values, dtype=np.float64) + 1) / 2 * BINS)
        return (self.first + bins.clip(0, BINS - 1)).astype(np.int32)

    def values(self, ids: Int32[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The middle of each bin; RequestError for a token that is none."""
        bins = np.asarray(ids) - self.first
        if bins.size and (bins.min() < 0 or bins.max() >= BINS):
            raise RequestError("these tokens are no numbers")
        return (bins + 0.5) / BINS * 2 - 1


@dataclass(frozen=True)
class Ranges:
    """What -1 and 1 mean in each dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n k"], quantile: float = 0.01) -> "Ranges":
        """Between the 1st and the 99th percentile of the values (OpenVLA's choice: outliers do not widen the bins)."""
        low, high = (np.quantile(values, q, axis=0) for q in (quantile, 1 - quantile))
        return cls(tuple(low.tolist()), tuple(np.maximum(high, low + 1e-6).tolist()))

    def shrink(self, values: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
        """As numbers between -1 and 1; what lies beyond is cut."""
        low, high = np.array(self.low), np.array(self.high)
        return ((np.asarray(values) - low) / (high - low) * 2 - 1).clip(-1, 1)

    def widen(self, values: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
        """The inverse."""
        low, high = np.array(self.low), np.array(self.high)
        return (np.asarray(values) + 1) / 2 * (high - low) + low

    def save(self, folder: Path) -> None:
        """Write `ranges.json`."""
        write_json(folder / FILE, {"low": self.low, "high": self.high})

    @classmethod
    def read(cls, folder: Path) -> "Ranges":
        """What `save` wrote."""
        tree = read_json(folder / FILE)
        return cls(tuple(tree["low"]), tuple(tree["high"]))
