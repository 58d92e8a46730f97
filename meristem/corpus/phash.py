"""Near-duplicate pictures: a 64-bit perceptual hash finds candidates, their small copies decide.

The hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.1.2; pHash): the
grey picture at 32 x 32, its 8 x 8 lowest cosine frequencies without the constant ones, each above their median or not.
Half of the frequencies of a symmetric picture are nothing but rounding, so faint ones count as below. Scaling,
recompression and a change of brightness flip few of the bits; but so do some pairs of different icons, and the hash
sees no colour. So a candidate is judged by the pictures themselves: colours at 16 x 16, at most `different` of 255
apart on average.

    seen = Seen(); seen.twin("a.png", small)          # None, and it is kept; or the name of the one that it repeats
"""
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

SIDE, LOW, COLOURS = 32, 8, 16
FLIPS = 10                              # bits of 64 that a copy may differ in; of 190 rescaled scenes at most 7 did
DIFFERENT = 4.0                         # of 255, mean over pixels and channels; JPEG at quality 60: 2.2, at most 3.1
FAINT = 0.5                             # grey levels that a frequency must move the picture by, at least

_n = np.arange(SIDE)
COSINES = np.cos(np.pi * np.arange(LOW + 1)[1:, None] * (2 * _n + 1) / (2 * SIDE))     # DCT-II, rows 1 to 8
COSINES.setflags(write=False)


def perceptual_hash(small: UInt8[np.ndarray, "3 32 32"]) -> np.uint64:
    """64 bits of a picture that was scaled to 32 x 32."""
    grey = np.tensordot([0.299, 0.587, 0.114], small.astype(np.float64), 1)
    low = (COSINES @ grey @ COSINES.T).ravel()
    return np.packbits(low > max(float(np.median(low)), FAINT * SIDE**2 / 4)).view(">u8")[0].astype(np.uint64)


@dataclass
class Seen:
    """The pictures kept so far: 8 bytes of hash and 768 of colours each."""

    different: float = DIFFERENT        # at most, for a copy
    names: list[str] = field(default_factory=list)
    hashes: np.ndarray = field(default_factory=lambda: np.empty(256, dtype=np.uint64))
    colours: np.ndarray = field(default_factory=lambda: np.empty((256, 3, COLOURS, COLOURS), dtype=np.uint8))

    def twin(self, name: str, small: UInt8[np.ndarray, "3 32 32"]) -> tuple[str, float] | None:
        """(name, mean difference) of the nearest kept picture that this one repeats; None, and it is kept."""
        own, count = perceptual_hash(small), len(self.names)
        colours = small.reshape(3, COLOURS, 2, COLOURS, 2).mean((2, 4)).round().astype(np.uint8)
        near = np.flatnonzero(np.bitwise_count(self.hashes[:count] ^ own) <= FLIPS)
        if len(near):
            apart = abs(self.colours[near].astype(np.int16) - colours).mean((1, 2, 3))
            if apart.min() <= self.different:
                return self.names[near[apart.argmin()]], float(apart.min())
        if count == len(self.hashes):
            self.hashes, self.colours = (np.concatenate([a, np.empty_like(a)]) for a in (self.hashes, self.colours))
        self.names.append(name)
        self.hashes[count], self.colours[count] = own, colours
        return None
