"""BabyAI's levels as worlds: minigrid's simulator, its instructions and its own expert.

    meristem curate toy:babyai documents=300 --out runs/babyai
    meristem evaluate runs/rt2 --corpus runs/babyai --tasks closed_loop=runs/babyai.rows/world.json

Chevalier-Boisvert et al. 2018, https://arxiv.org/abs/1810.08272. Needs `pip install meristem[robots]` (minigrid). An
action is one number: which of the seven of minigrid (left, right, forward, pick up, drop, toggle, done) it is. The
frame shows the whole grid from above. Pairs of colour and kind in UNSEEN are named in the test split only (`held_out`);
levels are drawn again until their instruction fits the split.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, UInt8

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row
from meristem.corpus.store import Corpus
from meristem.data import worlds
from meristem.data.worlds import recorded

DIMS = 1
ACTIONS = 7
UNSEEN = ("red ball", "blue key", "green box")         # of 18 pairs


class Episode:
    """One level in a state of its own."""

    def __init__(self, level: str, seed: int, cell: int, limit: int):
        try:
            import gymnasium
            import minigrid  # noqa: F401 - it registers the levels
        except ImportError:
            raise RequestError("BabyAI's levels need minigrid: pip install meristem[robots]") from None
        try:
            self.env = gymnasium.make(level)
        except gymnasium.error.Error as error:
            raise RequestError(f"minigrid has no level {level!r} ({error})") from None
        self.env.reset(seed=seed)
        self.world = cast(Any, self.env.unwrapped)
        self.instruction, self.limit, self.cell = str(self.world.mission), limit, cell
        self.success, self.bot, self.last = False, cast(Any, None), cast("int | None", None)

    def frame(self) -> UInt8[np.ndarray, "3 H W"]:
        """The grid from above."""
        return self.world.get_frame(highlight=False, tile_size=self.cell).transpose(2, 0, 1).astype(np.uint8)

    def act(self, action: Float[np.ndarray, "1"]) -> bool:
        """One of minigrid's actions."""
        self.last = number_of(action)
        _, reward, done, cut, _ = self.env.step(self.last)
        self.success = float(reward) > 0
        return bool(done or cut)

    def expert(self) -> Float[np.ndarray, "1"]:
        """What BabyAI's own bot does."""
        if self.bot is None:
            from minigrid.utils.baby_ai_bot import BabyAIBot
            self.bot = BabyAIBot(self.env)
        return value_of(int(self.bot.replan(self.last)))


def value_of(number: int) -> Float[np.ndarray, "1"]:
    """An action as a number between -1 and 1: the middle of its seventh."""
    return np.array([(2 * number + 1) / ACTIONS - 1])


def number_of(action: Float[np.ndarray, "1"]) -> int:
    """The action whose seventh a number lies in."""
    return int(np.clip(np.floor((float(action[0]) + 1) / 2 * ACTIONS), 0, ACTIONS - 1))


@dataclass(frozen=True)
class Babyai:
    """What levels there are: `documents` demonstrations to train on, a tenth of it for each of the other splits."""

    documents: int = 300
    seed: int = 0
    level: str = "BabyAI-GoToLocal-v0"
    cell: int = 8                       # pixels a side
    limit: int = 24
    held_out: bool = True

    @property
    def returns(self) -> bool:
        """Rows do not say what an episode earned."""
        return False

    def episode(self, split: str, number: int) -> Episode:
        """The first level whose instruction fits the split."""
        for again in range(200):
            seed = seed_of("babyai", self.seed, split, number, again) % 2**31
            made = Episode(self.level, seed, self.cell, self.limit)
            new = any(made.instruction.endswith(pair) for pair in UNSEEN)
            if not self.held_out or new == (split == "test"):
                return made
        raise RequestError(f"no instruction of {self.level} names one of {', '.join(UNSEEN)}; set held_out=false")

    def rows(self, split: str, folder: Path) -> Iterator[Row]:
        """Demonstrations of a split."""
        for number in range(self.documents if split == "train" else max(1, self.documents // 10)):
            yield from recorded(self.episode(split, number), folder, f"{split}-{number:05}")


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`; its rows, frames and `world.json` in `out`.rows."""
    return worlds.make("babyai", from_dict(Babyai, dict(fields)), out, LICENCE)
