"""What a corpus of pictures with captions leaves out: rules with a range each, and near duplicates with their twin.

    meristem curate pictures:FOLDER --out runs/pairs            # the ledger says why a picture is not in

`data.corpus=FOLDER` takes every row as it is; this is for pictures that nobody has looked through. The rules are those
of LAION's and DataComp's basic filters (Schuhmann et al. 2022, https://arxiv.org/abs/2210.08402, section 3; Gadre et
al. 2023, https://arxiv.org/abs/2304.14108, section 3.4), with the smallest side of this size of corpus.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from meristem.codecs.image import decode, picture
from meristem.core.errors import RequestError
from meristem.corpus import phash, pictures
from meristem.corpus.labelled import Drop


@dataclass(frozen=True)
class Sieve:
    """The ranges; a row breaks the first rule that it does not meet."""

    shorter_side: int = 16              # pixels, at least
    elongation: float = 4.0             # longer side over shorter, at most
    spread: float = 2.0                 # standard deviation of the pixels, of 255: less is blank
    words: int = 1                      # of the caption or the label, at least
    different: float = phash.DIFFERENT  # a picture nearer to one that is kept is its copy (corpus.phash)

    def ranges(self) -> dict[str, Any]:
        """What corpus.json keeps of it."""
        return asdict(self)

    def judge(self, rows: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Drop]:
        """Row id -> why it is left out; of two copies the one of the test split stays, then the smaller id."""
        seen, found = phash.Seen(self.different), dict[str, Drop]()
        order = {"test": 0, "validation": 1, "train": 2}
        for row in sorted(rows, key=lambda row: (order[row["split"]], row["id"])):
            if drop := self._drop(row, root, seen):
                found[row["id"]] = drop
        return found

    def _drop(self, row: Mapping[str, Any], root: Path, seen: phash.Seen) -> Drop | None:
        words = len((row.get("text") or row.get("label", "")).split())
        if words < self.words:
            return Drop("words", words)
        try:
            pixels = decode(pictures.bytes_of({"image": row["file"]}, root), name=row["file"])
        except RequestError as error:
            return Drop("unreadable", str(error))
        short, long = sorted(pixels.shape[1:])
        if short < self.shorter_side:
            return Drop("shorter_side", short)
        if long > self.elongation * short:
            return Drop("elongation", round(long / short, 2))
        if (spread := float(pixels.std())) < self.spread:
            return Drop("spread", round(spread, 2))
        twin = seen.twin(row["id"], small(pixels))
        return Drop("near_duplicate", round(twin[1], 2), twin[0]) if twin else None


def small(pixels: UInt8[np.ndarray, "3 H W"]) -> UInt8[np.ndarray, "3 32 32"]:
    """The whole picture at the side of its hash, whatever its shape."""
    from PIL import Image
    scaled = picture(pixels).resize((phash.SIDE, phash.SIDE), Image.Resampling.BOX)
    return np.asarray(scaled).transpose(2, 0, 1)
