"""What a corpus of pictures, films or sounds leaves out: rules with a range each, and copies with their twin.

    meristem curate pictures:FOLDER --out runs/pairs            # the ledger says why a picture is not in
    meristem curate films:FOLDER --out runs/films               # .gif of several frames, .mp4, .mov
    meristem curate sounds:FOLDER --out runs/sounds             # .wav, .flac, .ogg, .mp3

`data.corpus=FOLDER` takes every row as it is; this is for files that nobody has looked through. The rules of pictures
are those of LAION's and DataComp's basic filters (Schuhmann et al. 2022, https://arxiv.org/abs/2210.08402, section 3;
Gadre et al. 2023, https://arxiv.org/abs/2304.14108, section 3.4), with the smallest side of this size of corpus; films
and sounds need no words. A film's copy is found by four of its frames side by side, a sound's by its samples, whatever
the format that holds them.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from meristem.codecs import audio, image, video
from meristem.codecs.image import decode, picture
from meristem.core import files
from meristem.core.errors import RequestError
from meristem.corpus import phash, pictures
from meristem.corpus.labelled import Drop


@dataclass(frozen=True)
class Sieve:
    """The ranges; a row breaks the first rule that it does not meet."""

    shorter_side: int = 16              # pixels, at least
    elongation: float = 4.0             # longer side over shorter, at most
    spread: float = 2.0                 # standard deviation of the pixels, of 255: less is blank
    words: int = 1                      # of the caption or the label of a picture, at least
    motion: float = 0.1                 # of 255, mean change from a film's frame to the next: less is a still picture
    seconds: float = 0.05               # of a sound, at least
    loudness: float = 1e-4              # root of a sound's mean square, of 1: less is silence
    different: float = phash.DIFFERENT  # a picture nearer to one that is kept is its copy (corpus.phash)

    def ranges(self) -> dict[str, Any]:
        """What corpus.json keeps of it."""
        return asdict(self)

    def judge(self, rows: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Drop]:
        """Row id -> why it is left out; of two copies the one of the test split stays, then the smaller id."""
        seen, films, heard = phash.Seen(self.different), phash.Seen(self.different), dict[str, str]()
        found: dict[str, Drop] = {}
        order = {"test": 0, "validation": 1, "train": 2}
        for row in sorted(rows, key=lambda row: (order[row["split"]], row["id"])):
            try:
                if "sound" in row:
                    drop = self._sound(row, root, heard)
                else:
                    raw = pictures.bytes_of({"image": row["file"]}, root)
                    drop = self._film(row, raw, films) if video.is_film(raw) else self._picture(row, raw, seen)
            except (RequestError, ValueError) as error:
                drop = Drop("unreadable", str(error))
            if drop:
                found[row["id"]] = drop
        return found

    def _sound(self, row: Mapping[str, Any], root: Path, heard: dict[str, str]) -> Drop | None:
        samples, rate = audio.opened(pictures.bytes_of(row, root, "sound"), row["sound"])
        if (seconds := len(samples) / rate) < self.seconds:
            return Drop("seconds", round(seconds, 4))
        if (loudness := float(np.sqrt(np.vdot(samples, samples) / samples.size))) < self.loudness:
            return Drop("loudness", round(loudness, 7))
        twin = heard.setdefault(files.digest_bytes(f"{rate}", samples.tobytes()), row["id"])   # FLAC or WAV: the same
        return Drop("same_samples", 1.0, twin) if twin != row["id"] else None

    def _film(self, row: Mapping[str, Any], raw: bytes, seen: phash.Seen) -> Drop | None:
        frames = video.decode(raw, phash.SIDE, name=row["file"])
        motion = float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean()) if len(frames) > 1 else 0.0
        if motion < self.motion:
            return Drop("motion", round(motion, 3))
        four = image.grid(frames[video.evenly(len(frames), 4)], 2)
        twin = seen.twin(row["id"], small(four))
        return Drop("near_duplicate", round(twin[1], 2), twin[0]) if twin else None

    def _picture(self, row: Mapping[str, Any], raw: bytes, seen: phash.Seen) -> Drop | None:
        words = len((row.get("text") or row.get("label", "")).split())
        if words < self.words:
            return Drop("words", words)
        pixels = decode(raw, name=row["file"])
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
