"""Procedural pictures to be segmented: things with parts on a patterned ground, one light, shadows by casting rays.

    meristem curate toy:objects documents=4000 side=64 --out runs/objects

Seen from straight above, things are prisms that stand on the ground, the tallest on top; a point lies in shadow where
a ray towards the light meets a thing that is taller there. A row has a picture, a label map (one number a region) and
`objects`: each thing, each part that lies on one, each shadow on the ground, as the regions that it consists of.
Training and validation show ten shapes, the test split six others. An edit of a scene is a new list of things, and
`render` says what the picture, the masks and the shadows must then be (FEATURES B22):

    scene = Objects(side=64).scene("test", 0)
    before, after = (render(s, 64) for s in (scene, moved(scene, 0, 0.3, 0.6)))
"""
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data import scenes

FINE = 3                                # samples a side of each pixel
DARK = 0.55                             # of a colour that lies in shadow
LEAST = 0.005                           # of the picture's area: smaller objects are drawn and not listed
SEEN = ("circle", "square", "triangle", "ring", "cross", "diamond", "bar", "ell", "half", "ellipse")
UNSEEN = ("star", "heart", "hexagon", "crescent", "arrow", "tee")
PATTERNS = ("plain", "gradient", "stripes", "checks", "clouds")
SHADOW = "shadow"
Points = Float[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class Look:
    """Two colours and how they mix; `phase` moves the pattern, `scale` is its repeats across the picture."""

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    pattern: str
    scale: float
    turn: float
    phase: float


@dataclasses.dataclass(frozen=True)
class Thing:
    """One shape: its middle, radius and height in shares of the picture's side, its turn in radians."""

    shape: str
    x: float
    y: float
    radius: float
    turn: float
    height: float
    look: Look
    part: "Thing | None" = None         # lies flat on it, clipped by it


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on a ground under a light that stands in direction (x, y); a thing's shadow is as long as it is high."""

    things: tuple[Thing, ...]
    ground: Look
    light: tuple[float, float]
    grain: int                          # names the noise of the camera


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A picture and its truth: `things` and `parts` where each is visible, `shadows` where each falls on the ground."""

    picture: UInt8[np.ndarray, "3 H W"]
    things: Bool[np.ndarray, "n H W"]
    parts: dict[int, Bool[np.ndarray, "H W"]]
    shadows: Bool[np.ndarray, "n H W"]

    @property
    def dark(self) -> Bool[np.ndarray, "H W"]:
        """The ground in shadow, whoever casts it."""
        return np.asarray(self.shadows.any(0))


@dataclasses.dataclass(frozen=True)
class Objects:
    """What pictures are made: `documents` of the training split, a tenth of it for each of the others."""

    documents: int = 4000
    seed: int = 0
    side: int = 64
    most: int = 4                       # things a picture, at least one
    parts: float = 0.4                  # share of the things that have one

    def __post_init__(self) -> None:
        if not (16 <= self.side <= 1024 and 1 <= self.most <= 12 and 0 <= self.parts <= 1):
            raise RequestError("toy:objects has a side of 16 to 1024 pixels, 1 to 12 things a picture and parts from 0 "
                               f"to 1, not {self}")

    def scene(self, split: str, number: int) -> Scene:
        """The things of one picture."""
        rng = np.random.default_rng(seed_of("objects", self.seed, split, number))
        shapes = UNSEEN if split == "test" else SEEN
        things: list[Thing] = []
        for _ in range(int(rng.integers(1, self.most + 1))):
            radius = float(rng.uniform(0.12, 0.26))
            x, y = (float(v) for v in rng.uniform(0.8 * radius, 1 - 0.8 * radius, 2))
            height = float(rng.uniform(0.03, 0.14))
            look, turn = _look(rng), float(rng.uniform(0, 2 * np.pi))
            part = None
            if rng.random() < self.parts:
                angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.5) * radius
                part = Thing(shapes[rng.integers(len(shapes))], x + float(np.cos(angle) * away),
                             y + float(np.sin(angle) * away), float(rng.uniform(0.4, 0.6)) * radius,
                             float(rng.uniform(0, 2 * np.pi)), height, _look(rng))
            things.append(Thing(shapes[rng.integers(len(shapes))], x, y, radius, turn, height, look, part))
        angle = rng.uniform(0, 2 * np.pi)
        light = float(np.cos(angle)), float(np.sin(angle))
        return Scene(tuple(sorted(things, key=lambda t: t.height)), _look(rng), light, int(rng.integers(2**31)))


def moved(scene: Scene, number: int, x: float, y: float) -> Scene:
    """The scene with one thing, and the part on it, elsewhere."""
    old = scene.things[number]
    part = old.part and dataclasses.replace(old.part, x=old.part.x + x - old.x, y=old.part.y + y - old.y)
    things = list(scene.things)
    things[number] = dataclasses.replace(old, x=x, y=y, part=part)
    return dataclasses.replace(scene, things=tuple(things))


def without(scene: Scene, number: int) -> Scene:
    """The scene without one thing, and so without its shadow."""
    return dataclasses.replace(scene, things=scene.things[:number] + scene.things[number + 1:])


def render(scene: Scene, side: int, shadows: bool = True) -> Rendered:
    """The picture and its truth, each pixel from FINE x FINE samples; `shadows` off draws none (the truth keeps them).
    """
    fine = side * FINE
    at = (np.arange(fine) + 0.5) / fine
    x, y = np.meshgrid(at, at)
    canvas, owner, on = _paint(scene.ground, x, y), np.full((fine, fine), -1), np.full((fine, fine), -1)
    whole = [_inside(thing, x, y) for thing in scene.things]
    tall = np.zeros((fine, fine))
    for n, thing in enumerate(scene.things):                   # from the lowest to the tallest
        canvas[whole[n]] = _paint(thing.look, x, y)[whole[n]]
        owner[whole[n]], on[whole[n]], tall[whole[n]] = n, -1, thing.height
        if thing.part:
            there = whole[n] & _inside(thing.part, x, y)
            canvas[there], on[there] = _paint(thing.part.look, x, y)[there], n
    cast = np.array([_shadow(whole[n], thing.height, scene.light, tall) for n, thing in enumerate(scene.things)],
                    dtype=bool).reshape(-1, fine, fine)
    if shadows:
        canvas[cast.any(0)] *= DARK
    grain = np.random.default_rng(scene.grain).normal(0, 5, (side, side, 3))
    picture = (_coarse(canvas, side) + grain).clip(0, 255).round().astype(np.uint8).transpose(2, 0, 1)
    count = range(len(scene.things))
    visible = np.array([_coarse(owner == n, side) > 0.5 for n in count], dtype=bool).reshape(-1, side, side)
    parts = {n: (_coarse(on == n, side) > 0.5) & visible[n] for n in count if scene.things[n].part}
    ground = ~visible.any(0)
    falls = np.array([(_coarse(cast[n] & (owner < 0), side) > 0.5) & ground for n in count], dtype=bool)
    return Rendered(picture, visible, parts, falls.reshape(-1, side, side))


def shadow_found(edited: UInt8[np.ndarray, "3 H W"], scene: Scene) -> Bool[np.ndarray, "H W"]:
    """Where an edited picture of a scene has shadow on the ground: darker than half way to the scene without shadows.

    Its overlap with `render(scene, side).dark` says whether an edit moved the shadow with the thing.
    """
    plain = render(scene, edited.shape[1], shadows=False)
    bright = plain.picture.astype(np.float64).mean(0)
    return (edited.astype(np.float64).mean(0) < (1 + DARK) / 2 * bright) & ~plain.things.any(0)


def row_of(rendered: Rendered, scene: Scene) -> tuple[UInt8[np.ndarray, "1 H W"], list[dict[str, Any]]]:
    """The label map and the objects as lists of its regions; RequestError beyond 255 regions."""
    masks: list[tuple[str, np.ndarray]] = []
    for n, thing in enumerate(scene.things):
        masks.append((thing.shape, rendered.things[n]))
        if n in rendered.parts and thing.part:
            masks.append((f"{thing.part.shape} on a {thing.shape}", rendered.parts[n]))
        masks.append((SHADOW, rendered.shadows[n]))
    kept = [(name, mask) for name, mask in masks if mask.sum() >= LEAST * mask.size]
    bits = sum((mask.astype(np.int64) << n for n, (_, mask) in enumerate(kept)), np.zeros(rendered.dark.shape, int))
    codes, regions = np.unique(np.append(bits, 0), return_inverse=True)        # 0, the ground, comes first
    if len(codes) > 256:
        raise RequestError(f"a picture with {len(codes)} regions does not fit a label map of 8 bits; lower most")
    objects = [{"name": name, "regions": [int(r) for r, code in enumerate(codes) if code >> n & 1]}
               for n, (name, _) in enumerate(kept)]
    return regions[:-1].reshape(1, *bits.shape).astype(np.uint8), objects


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`, its rows and pictures in `out`.rows."""
    kind = from_dict(Objects, dict(fields))

    def rows(split: str, folder: Path) -> Iterator[Row]:
        for number in range(kind.documents if split == "train" else max(1, kind.documents // 10)):
            scene, name = kind.scene(split, number), f"{split}-{number:06}"
            rendered = render(scene, kind.side)
            regions, objects = row_of(rendered, scene)
            (folder / f"{name}.png").write_bytes(encode(rendered.picture))
            (folder / f"{name}.masks.png").write_bytes(encode(regions))
            yield {"image": f"{name}.png", "masks": f"{name}.masks.png", "objects": objects,
                   "text": ", ".join(f"a {thing.shape}" for thing in scene.things)}

    return made(out, "toy pictures", LICENCE, rows)


def covers(shape: str, x: Points, y: Points) -> Bool[np.ndarray, "h w"]:
    """Which points a shape of radius 1 around 0 covers; y grows downwards."""
    return OWN[shape](x, y) if shape in OWN else scenes.covers(shape, x, y)


def _star(x: Points, y: Points) -> np.ndarray:
    """Five tips at radius 1, between them corners at 0.45, joined by straight lines."""
    turn = abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    inner = 0.45 * np.sin(np.pi / 5)
    return np.hypot(x, y) * (0.45 * np.sin(np.pi / 5 - turn) + np.sin(turn)) <= inner


OWN: dict[str, Callable[[Points, Points], np.ndarray]] = {
    "bar": lambda x, y: (abs(x) <= 0.3) & (abs(y) <= 1),
    "ell": lambda x, y: ((abs(y) <= 0.9) & (x >= -0.7) & (x <= -0.15)) | ((abs(x) <= 0.7) & (y >= 0.4) & (y <= 0.9)),
    "half": lambda x, y: (np.hypot(x, y) <= 1) & (y >= -0.1),
    "ellipse": lambda x, y: np.hypot(x, 1.8 * y) <= 1,
    "star": _star,
    "heart": lambda x, y: ((1.2 * x)**2 + (0.1 - 1.15 * y)**2 - 0.8)**3 <= (1.2 * x)**2 * (0.1 - 1.15 * y)**3,
    "hexagon": lambda x, y: (abs(x) <= 0.83) & (abs(x) * 0.5 + abs(y) * 0.866 <= 0.83),
    "crescent": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x - 0.55, y) >= 0.75),
    "arrow": lambda x, y: ((y <= 0.1) & (y >= 1.2 * abs(x) - 1)) | ((abs(x) <= 0.3) & (y >= 0) & (y <= 0.95)),
    "tee": lambda x, y: ((abs(x) <= 0.85) & (abs(y + 0.6) <= 0.25)) | ((abs(x) <= 0.28) & (y >= -0.4) & (y <= 0.95)),
}


def _look(rng: np.random.Generator) -> Look:
    first = rng.integers(20, 236, 3)
    second = (first + rng.integers(-70, 71, 3)).clip(10, 245)
    colours = [tuple(int(v) for v in colour) for colour in (first, second)]
    return Look(colours[0], colours[1], PATTERNS[rng.integers(len(PATTERNS))],         # type: ignore[arg-type]
                float(rng.uniform(3, 9)), float(rng.uniform(0, np.pi)), float(rng.uniform(0, 1)))


def _paint(look: Look, x: Points, y: Points) -> Float[np.ndarray, "h w 3"]:
    """The colours of a look over the whole picture."""
    u = x * np.cos(look.turn) + y * np.sin(look.turn)
    v = y * np.cos(look.turn) - x * np.sin(look.turn)
    turns = 2 * np.pi * (look.scale * np.stack([u, v]) + look.phase)
    share = {"plain": lambda: np.zeros_like(u), "gradient": lambda: (u - u.min()) / np.ptp(u),
             "stripes": lambda: (np.sin(turns[0]) > 0).astype(float),
             "checks": lambda: (np.sin(turns[0]) * np.sin(turns[1]) > 0).astype(float),
             "clouds": lambda: 0.5 + 0.25 * (np.sin(turns[0] + 2 * np.sin(turns[1] / 2)) + np.sin(turns[1] * 0.7)),
             }[look.pattern]()
    first, second = (np.array(colour, dtype=np.float64) for colour in (look.first, look.second))
    return first + share[..., None] * (second - first)


def _inside(thing: Thing, x: Points, y: Points) -> np.ndarray:
    """Which points a thing covers."""
    u, v = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
    c, s = np.cos(thing.turn), np.sin(thing.turn)
    return covers(thing.shape, u * c + v * s, v * c - u * s)


def _shadow(whole: np.ndarray, height: float, light: tuple[float, float], tall: np.ndarray) -> np.ndarray:
    """Where rays towards the light meet a prism: from the height `tall` of each sample, a sample's width a step."""
    fine = len(whole)
    dark = np.zeros_like(whole)
    for step in range(1, int(np.ceil(height * fine)) + 1):
        right, down = round(-light[0] * step), round(-light[1] * step)         # the shadow falls away from the light
        moved_on = np.zeros_like(whole)
        moved_on[max(0, down):fine + min(0, down), max(0, right):fine + min(0, right)] = \
            whole[max(0, -down):fine - max(0, down), max(0, -right):fine - max(0, right)]
        dark |= moved_on & (height - step / fine > tall - 1e-9) & (tall < height)
    return dark


def _coarse(fine: np.ndarray, side: int) -> np.ndarray:
    """The mean of each pixel's samples."""
    return fine.reshape(side, FINE, side, FINE, *fine.shape[2:]).mean((1, 3))
