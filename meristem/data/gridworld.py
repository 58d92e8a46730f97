"""A small world with instructions: "go to the red circle", on a grid, seen from above.

    meristem curate toy:gridworld documents=400 --out runs/grid                # demonstrations, and questions beside
    meristem pretrain rt2 data.corpus=runs/grid --out runs/rt2
    meristem evaluate runs/rt2 --corpus runs/grid --tasks closed_loop=runs/grid.rows/world.json

An action is three numbers: right, down (rounded to whole cells) and stop (above 0). The episode ends with a stop, in
success on the cell of the thing that was named, or after `limit` steps. Some pairs of colour and shape appear in no
demonstration, neither named nor seen: the test split's instructions name them, and the things beside share the colour
or the shape, so that both words must be understood. A share of the rows are questions about the frames: what RT-2 calls
co-training with image-text data (https://arxiv.org/abs/2307.15818, section 3.2). With `worldly` more questions are
about other worlds, which show and name every pair: there is a thing or not, and where in the picture it stands. So the
web told RT-2 of things that no robot had touched; what to do about them is still told of none.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row
from meristem.corpus.store import Corpus
from meristem.data import worlds
from meristem.data.scenes import COLOURS, SHAPES, covers
from meristem.data.worlds import World, recorded

DIMS = 3                                # numbers of an action
DOWN, ACROSS = ("top", "middle", "bottom"), ("left", "centre", "right")
GROUND, FRAME = (244, 242, 236), (25, 25, 25)
Thing = tuple[str, str]                 # colour and shape
Cell = tuple[int, int]                  # column and row


@dataclass
class Episode:
    """One grid with its things, and somebody on it."""

    things: dict[Cell, Thing]
    target: Cell
    at: Cell
    size: int
    cell: int
    limit: int
    stopped: bool = False
    instruction: str = field(init=False)

    def __post_init__(self) -> None:
        self.instruction = "go to the {} {}".format(*self.things[self.target])

    def frame(self) -> UInt8[np.ndarray, "3 H W"]:
        """The grid from above; a dark frame is where somebody stands."""
        side, fine = self.cell, (np.arange(self.cell) + 0.5) / self.cell * 2.4 - 1.2
        canvas = np.empty((self.size * side, self.size * side, 3), dtype=np.uint8)
        canvas[:] = GROUND
        for (x, y), (colour, shape) in self.things.items():
            canvas[y * side:(y + 1) * side, x * side:(x + 1) * side][covers(shape, fine[None], fine[:, None])] = \
                COLOURS[colour]
        x, y = self.at
        here = canvas[y * side:(y + 1) * side, x * side:(x + 1) * side]
        here[[0, -1]] = here[:, [0, -1]] = FRAME
        return canvas.transpose(2, 0, 1).copy()

    def act(self, action: Float[np.ndarray, "3"]) -> bool:
        """Move by whole cells, or stop."""
        if action[2] > 0:
            self.stopped = True
            return True
        self.at = (int(np.clip(self.at[0] + round(float(action[0])), 0, self.size - 1)),
                   int(np.clip(self.at[1] + round(float(action[1])), 0, self.size - 1)))
        return False

    @property
    def success(self) -> bool:
        """Whether it stopped on the thing that was named."""
        return self.stopped and self.at == self.target

    def expert(self) -> Float[np.ndarray, "3"]:
        """Across and down at once, then stop."""
        x, y = (int(np.sign(there - here)) for there, here in zip(self.target, self.at, strict=True))
        return np.array([x, y, 1.0 if (x, y) == (0, 0) else -1.0])


@dataclass(frozen=True)
class Gridworld:
    """What worlds there are: `documents` demonstrations to train on, a tenth of it for each of the other splits."""

    documents: int = 400
    seed: int = 0
    size: int = 5
    cell: int = 8                       # pixels a side
    colours: int = 4
    shapes: int = 3
    things: int = 4
    held_out: float = 0.17              # of the pairs of colour and shape: named in the test split only
    questions: float = 0.25             # of the rows, beside the demonstrations
    worldly: float = 0.0                # questions about any pair, for each row of a demonstration
    returns: bool = False               # rows say what the rest of the episode earned
    wander: float = 0.0                 # share of the demonstrations' steps that are taken at random

    def __post_init__(self) -> None:
        if not (3 <= self.size <= 16 and 2 <= self.things <= min(self.size**2, self.colours * self.shapes)
                and 2 <= self.colours <= len(COLOURS) and 2 <= self.shapes <= len(SHAPES) and self.cell >= 6
                and 0 <= self.held_out <= 0.4 and 0 <= self.questions < 1 and 0 <= self.wander < 1
                and 0 <= self.worldly <= 8):
            raise RequestError(f"no such gridworld: {self}; a side of 3 to 16 cells of 6 pixels or more, 2 things or "
                               "more of 2 to 8 colours and 2 to 6 shapes, shares below 1")

    @property
    def limit(self) -> int:
        """Steps until an episode has failed."""
        return 2 * self.size

    def unseen(self) -> list[Thing]:
        """The pairs that no demonstration names or shows."""
        every = [(c, s) for c in list(COLOURS)[:self.colours] for s in list(SHAPES)[:self.shapes]]
        order = np.random.default_rng(seed_of("gridworld", self.seed, "held out")).permutation(len(every))
        return [every[i] for i in sorted(order[:round(self.held_out * len(every))])]

    def episode(self, split: str, number: int) -> Episode:
        """One episode; those of the test split name a pair that training never shows."""
        rng = np.random.default_rng(seed_of("gridworld", self.seed, self.size, split, number))
        new = self.unseen()
        every = [(c, s) for c in list(COLOURS)[:self.colours] for s in list(SHAPES)[:self.shapes]]
        old = [pair for pair in every if pair not in new]
        named = new if split == "test" and new else every if split.startswith("asked") else old
        target = named[rng.integers(len(named))]
        like = [p for p in old if p != target and (p[0] == target[0]) != (p[1] == target[1])]
        rest = [p for p in old if p != target and p not in like]
        beside = [like[i] for i in rng.permutation(len(like))] + [rest[i] for i in rng.permutation(len(rest))]
        places = [(int(i) % self.size, int(i) // self.size) for i in rng.permutation(self.size**2)]
        things = dict(zip(places, [target, *beside[:self.things - 1]], strict=False))
        return Episode(things, places[0], places[self.things], self.size, self.cell, self.limit)

    def rows(self, split: str, folder: Path) -> Iterator[Row]:
        """Demonstrations of a split, and questions about their frames."""
        rng = np.random.default_rng(seed_of("gridworld", self.seed, "rows", split))

        def wandering(world: World) -> np.ndarray:
            return np.array([*rng.integers(-1, 2, 2), -1.0]) if rng.random() < self.wander else world.expert()

        for number in range(self.documents if split == "train" else max(1, self.documents // 10)):
            world = self.episode(split, number)
            for row in recorded(world, folder, f"{split}-{number:05}", wandering if self.wander else None,
                                self.returns):
                yield row
                if rng.random() < self.questions / (1 - self.questions):
                    yield {"image": row["image"], **self.question(rng, world)}
                for one in range(int(self.worldly + rng.random()) if self.worldly else 0):
                    other = self.episode(f"asked {split}", int(rng.integers(2**31)))
                    name = f"{row['image'].removesuffix('.png')}-asked-{one}.png"
                    (folder / name).write_bytes(encode(other.frame()))
                    yield {"image": name, **self.worldly_question(rng, other)}

    def worldly_question(self, rng: np.random.Generator, world: Episode) -> dict[str, str]:
        """Whether any thing is there, or in which ninth of the picture one is."""
        x, y = cell = list(world.things)[0 if rng.random() < 0.5 else rng.integers(len(world.things))]
        colour, shape = world.things[cell]
        if rng.random() < 0.5:
            across, down = (min(2, 3 * place // self.size) for place in (x, y))
            return {"input": f"where is the {colour} {shape}?", "target": f"{DOWN[down]} {ACROSS[across]}"}
        if rng.random() < 0.5:
            return {"input": f"is there a {colour} {shape}?", "target": "yes"}
        absent = [(c, s) for c in list(COLOURS)[:self.colours] for s in list(SHAPES)[:self.shapes]
                  if (c, s) not in world.things.values()]
        return {"input": "is there a {} {}?".format(*absent[rng.integers(len(absent))]), "target": "no"}

    def question(self, rng: np.random.Generator, world: Episode) -> dict[str, str]:
        """Which shape of a colour there is, or whether there is a thing; true of the whole episode."""
        things = list(world.things.values())
        thing = things[rng.integers(len(things))]
        if rng.random() < 0.5:
            return {"input": "is there a {} {}?".format(*thing), "target": "yes"}
        while thing in things:
            thing = list(COLOURS)[rng.integers(self.colours)], list(SHAPES)[rng.integers(self.shapes)]
            if thing in self.unseen():
                thing = things[0]
        return {"input": "is there a {} {}?".format(*thing), "target": "no"}


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`; its rows, frames and `world.json` in `out`.rows."""
    return worlds.make("gridworld", from_dict(Gridworld, dict(fields)), out, LICENCE)
