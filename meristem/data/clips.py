"""Films with captions: batches of them, a maker of things that move, and a tracker that says what a film shows.

    meristem curate toy:clips documents=2000 --out runs/clips                  # a shape, one of eight ways to move
    meristem curate sprites:sprites-video --out runs/sprites                   # data/sprites.py: animated characters

`data.examples=clips` reads rows with an `image` that is a film (GIF, animated PNG or WebP) or with `images`, its
frames: `frames` of them, spread over the film, kept as bytes beside the corpus. A step's rows are a function of (seed,
step). The toy's caption is "a red circle moving right", its label "moving right"; its speed is constant, and `track`
measures where the thing is, of what colour, and how far its way is from a straight line at one speed.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from meristem.codecs import video
from meristem.codecs.base import Codec
from meristem.codecs.image import decode, encode
from meristem.core import files
from meristem.core.config import from_dict
from meristem.core.errors import MachineError, RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.pictures import Tar
from meristem.corpus.store import SPLITS, Corpus
from meristem.data.loader import Order
from meristem.data.pictures import Pictures, captions, names_of
from meristem.data.scenes import COLOURS, SHAPES, Object, draw

ENTRY = "clips"                         # in run.data.examples
WAYS = {"moving right": (1, 0), "moving left": (-1, 0), "moving up": (0, -1), "moving down": (0, 1)}
STILL, GROWING, SHRINKING = "standing still", "growing", "shrinking"
MOTIONS = (*WAYS, STILL, GROWING, SHRINKING)
GROUND = (244, 242, 236)


def source(corpus: Corpus, codec: Codec, split: str, shape: tuple[int, int, int], context: int,
           order: tuple[int, int, int]) -> Pictures:
    """The films of a split at `shape`, (frames, side, channels), with their captions; images [B, F, C, H, W]."""
    documents = [d for d in corpus.documents(split) if names_of(d)]
    if not documents:
        raise RequestError(f"the {split} split of {corpus.folder} has no films: rows with an image that is one, or "
                           "with images, its frames")
    names = {name: number for number, name in enumerate(corpus.summary.get("labels", []))}
    labels = (np.array([names[d.fields["label"]] for d in documents]) if all("label" in d.fields for d in documents)
              else None)
    tokens, lengths = captions(codec, [d.text for d in documents], context)
    batch, seed, micro = order
    return Pictures(stored(corpus, *shape)[split], tokens, lengths, labels, Order(len(documents), batch, seed, micro))


def stored(corpus: Corpus, frames: int, side: int, channels: int) -> dict[str, np.ndarray]:
    """Every split's films [N, F, C, side, side], decoded when they are first asked for; MachineError when damaged."""
    folder = corpus.folder / "pixels" / f"{frames}-{side}-{channels}"
    if not folder.is_dir():
        with files.committed(folder) as kept:
            for split in SPLITS:
                documents = [d for d in corpus.documents(split) if names_of(d)]
                tar = Tar(corpus.folder / f"{split}.tar") if documents else {}
                with open(kept / f"{split}.bin", "wb") as f:
                    for document in documents:
                        names = names_of(document)
                        if len(names) > 1:
                            which = video.evenly(len(names), frames)
                            film = np.stack([decode(tar[names[i]], side, channels, document.source) for i in which])
                        else:
                            film = video.decode(tar[names[0]], side, channels, document.source)
                            film = film[video.evenly(len(film), frames)]
                        f.write(film.tobytes())
    if trouble := files.verify(folder):
        raise MachineError(f"the pixels in {folder} cannot be trusted: {trouble}; remove that folder, it is made again")
    return {file.stem: np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, frames, channels, side, side)
            for file in sorted(folder.glob("*.bin")) if file.stat().st_size}


@dataclass(frozen=True)
class Clips:
    """What films are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 2000
    seed: int = 0
    side: int = 16
    frames: int = 17
    colours: int = 4
    shapes: int = 3
    motions: int = 4                    # of MOTIONS, from the first

    def __post_init__(self) -> None:
        if not (12 <= self.side <= 256 and 3 <= self.frames <= 64 and 2 <= self.motions <= len(MOTIONS)
                and 2 <= self.colours <= len(COLOURS) and 1 <= self.shapes <= len(SHAPES)):
            raise RequestError(f"no such films: {self}; a side of 12 to 256 pixels, 3 to 64 frames, 2 to 7 motions")

    def film(self, split: str, number: int) -> tuple[UInt8[np.ndarray, "F 3 H W"], str, str]:
        """The frames, the caption and the motion of one film."""
        rng = np.random.default_rng(seed_of("clips", self.seed, split, number))
        colour, shape = list(COLOURS)[rng.integers(self.colours)], SHAPES[rng.integers(self.shapes)]
        motion = MOTIONS[rng.integers(self.motions)]
        radius, at = rng.uniform(0.16, 0.2), np.linspace(0, 1, self.frames)
        if motion in (GROWING, SHRINKING):
            x, y = rng.uniform(0.4, 0.6, 2)
            low, high = 0.12, rng.uniform(0.3, 0.38)
            radii = low + (high - low) * (at if motion == GROWING else 1 - at)
            places = np.tile([x, y], (self.frames, 1))
        else:
            way = np.array(WAYS.get(motion, (0, 0)), dtype=float)
            across = rng.uniform(0.25, 0.75, 2)
            start, length = rng.uniform(0.2, 0.3), rng.uniform(0.45, 0.5)
            along = start + length * at if way.sum() >= 0 else 1 - start - length * at
            places = np.where(way[None] != 0, along[:, None], across[None])
            radii = np.full(self.frames, radius)
        frames = [draw([Object(colour, shape, float(x), float(y), float(r))], self.side, GROUND)[0]
                  for (x, y), r in zip(places, radii, strict=True)]
        return np.stack(frames), f"a {colour} {shape} {motion}", motion


@dataclass(frozen=True)
class Track:
    """What a film shows: where the thing is in each frame (shares of the side; NaN where nothing is), its colours."""

    places: Float[np.ndarray, "F 2"]
    colours: tuple[str, ...]            # "" where nothing is
    sizes: Float[np.ndarray, "F"]       # shares of the pixels

    @property
    def colour(self) -> str:
        """The most common one."""
        return max(set(self.colours), key=self.colours.count)

    @property
    def kept(self) -> float:
        """Share of the frames that show a thing of the most common colour."""
        return self.colours.count(self.colour) / len(self.colours) if self.colour else 0.0

    def bend(self, order: np.ndarray | None = None) -> float:
        """Root mean square distance from the best straight way at constant speed, in shares of the side.

        With an `order` the same of the frames in that order: the control. NaN where half of the frames show nothing.
        """
        places = self.places if order is None else self.places[order]
        seen = np.isfinite(places[:, 0])
        if seen.sum() < len(places) / 2:
            return float("nan")
        time = np.stack([np.flatnonzero(seen), np.ones(seen.sum())], 1)
        way = np.linalg.lstsq(time, places[seen], rcond=None)[0]
        return float(np.sqrt(np.square(places[seen] - time @ way).sum(1).mean()))

    @property
    def motion(self) -> str:
        """Which of MOTIONS it is, by the way between the first and the last third and by the sizes there."""
        third = max(1, len(self.places) // 3)
        ends = [np.nanmean(some, 0) if np.isfinite(some).any() else np.full(2, np.nan)
                for some in (self.places[:third], self.places[-third:])]
        way = ends[1] - ends[0]
        if not np.isfinite(way).all():
            return ""
        if np.abs(way).max() > 0.1:
            axis = int(np.abs(way).argmax())
            step = tuple(int(np.sign(way[axis])) * (i == axis) for i in range(2))
            return next(name for name, own in WAYS.items() if own == step)
        small, large = self.sizes[:third].mean(), self.sizes[-third:].mean()
        return GROWING if large > 1.3 * small else SHRINKING if small > 1.3 * large else STILL


def track(film: UInt8[np.ndarray, "F 3 H W"]) -> Track:
    """Follow what stands out from the ground: its middle, and the colour of what stands out most (edges are mixed)."""
    names, table = list(COLOURS), np.array(list(COLOURS.values()), dtype=float)
    side, places, colours, sizes = film.shape[-1], [], [], []
    at = (np.arange(side) + 0.5) / side
    for frame in film.transpose(0, 2, 3, 1).astype(float):
        away = np.linalg.norm(frame - GROUND, axis=-1)
        near = np.linalg.norm(frame[..., None, :] - table, axis=-1).argmin(-1)
        solid = away > 80
        sizes.append(float(solid.mean()))
        if solid.sum() < 3:
            places.append([np.nan, np.nan])
            colours.append("")
            continue
        places.append([float((at[None] * solid).sum() / solid.sum()), float((at[:, None] * solid).sum() / solid.sum())])
        plain = away >= np.quantile(away[solid], 0.5)
        colours.append(names[np.bincount(near[plain & solid], minlength=len(names)).argmax()])
    return Track(np.array(places), tuple(colours), np.array(sizes))


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and frames in `out`.rows."""
    kind = from_dict(Clips, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            frames, caption, motion = kind.film(split, number)
            names = [f"{split}-{number:05}-{i:02}.png" for i in range(len(frames))]
            for name, frame in zip(names, frames, strict=True):
                (folder / name).write_bytes(encode(frame))
            yield {"images": names, "text": caption, "label": motion}

    return made(out, "films", LICENCE, rows)
