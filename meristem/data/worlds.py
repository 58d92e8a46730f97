"""Worlds in which an instruction is carried out: what one is, how demonstrations are recorded, how a policy is tried.

    for world in episodes:                                     # seeded: data.gridworld, data.arm, data.babyai
        run = attempt(world, policy)                           # policy(instruction, frame) -> action
        rows += recorded(world, expert, folder, "train-000001")

A row of a demonstration is a step: the frame, the instruction, the action that was taken (numbers from -1 to 1) and,
where asked for, the return: what the rest of the episode earned, 1 at once to -1 never (decision transformers: Chen et
al. 2021, https://arxiv.org/abs/2106.01345). `data.examples=interleaved` reads such rows.
"""
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from meristem.codecs.image import encode
from meristem.core.config import from_dict, to_dict
from meristem.core.errors import RequestError, nearest
from meristem.core.files import read_json, write_json
from meristem.corpus.made import made
from meristem.corpus.store import Corpus

WORLD = "world.json"                    # beside the rows: what closed_loop is asked with
KINDS = {"gridworld": "Gridworld", "babyai": "Babyai", "arm": "Arm"}           # files of this folder, and their fields
Row = dict[str, Any]
Action = Float[np.ndarray, "k"]
Policy = Callable[[str, UInt8[np.ndarray, "C H W"]], Action]


class World(Protocol):
    """One episode."""

    instruction: str
    limit: int                          # steps until it has failed

    def frame(self) -> UInt8[np.ndarray, "C H W"]:
        """What is seen now."""
        ...

    def act(self, action: Action) -> bool:
        """Take an action, numbers from -1 to 1; True when the episode is over."""
        ...

    @property
    def success(self) -> bool:
        """Whether the instruction was carried out."""
        ...

    def expert(self) -> Action:
        """A good action from here."""
        ...


class Kind(Protocol):
    """What episodes there are, of which some are demonstrated."""

    @property
    def documents(self) -> int:
        """Demonstrations of the training split."""
        ...

    @property
    def returns(self) -> bool:
        """Whether rows say what the rest of an episode earned."""
        ...

    @property
    def limit(self) -> int:
        """Steps until an episode has failed."""
        ...

    def episode(self, split: str, number: int) -> World:
        """One episode; those of the test split are told what training never was."""
        ...

    def rows(self, split: str, folder: Path) -> Iterator[Row]:
        """The demonstrations of a split, frames written into `folder`."""
        ...


def make(name: str, kind: Kind, out: Path, licence: str) -> Corpus:
    """The corpus of a kind in the folder `out`; its rows, frames and `world.json` in `out`.rows."""
    def rows(split: str, folder: Path) -> Iterator[Row]:
        write_json(folder / WORLD, {"kind": name, **to_dict(kind)})
        return kind.rows(split, folder)

    return made(out, "demonstrations", licence, rows)


def opened(file: Path) -> tuple[Kind, int]:
    """The kind that a `world.json` tells, and how many numbers its actions have; RequestError for another file."""
    tree = read_json(file)
    name = tree.pop("kind", "") if isinstance(tree, dict) else ""
    if name not in KINDS:
        raise RequestError(f"{file} tells no world {name!r}; {nearest(str(name), KINDS)}")
    module = importlib.import_module(f"meristem.data.{name}")
    return from_dict(vars(module)[KINDS[name]], tree), module.DIMS


@dataclass(frozen=True)
class Attempt:
    """How an episode went."""

    success: bool
    steps: int


def attempt(world: World, policy: Policy, instruction: str | None = None) -> Attempt:
    """One episode under a policy, which may be told another instruction than the world's, or none."""
    told = world.instruction if instruction is None else instruction
    for step in range(1, world.limit + 1):
        if world.act(policy(told, world.frame())):
            return Attempt(world.success, step)
    return Attempt(False, world.limit)


def together(worlds: Sequence[World], policy: Callable[[list[str], list[np.ndarray]], list[Action]],
             instructions: Sequence[str] | None = None) -> list[Attempt]:
    """`attempt` of many episodes side by side: the policy is asked for all that still go on at once."""
    told = [world.instruction for world in worlds] if instructions is None else list(instructions)
    out = [Attempt(False, world.limit) for world in worlds]
    going, step = list(range(len(worlds))), 0
    while going:
        step += 1
        actions = policy([told[i] for i in going], [worlds[i].frame() for i in going])
        left = []
        for i, action in zip(going, actions, strict=True):
            if worlds[i].act(action):
                out[i] = Attempt(worlds[i].success, step)
            elif step < worlds[i].limit:
                left.append(i)
        going = left
    return out


def recorded(world: World, folder: Path, name: str, policy: Callable[[World], Action] | None = None,
             returns: bool = False) -> Iterator[Row]:
    """The rows of one demonstration (by `policy`, default: the expert), its frames written into `folder`."""
    rows: list[Row] = []
    done = False
    for step in range(world.limit):
        frame, action = world.frame(), policy(world) if policy else world.expert()
        file = f"{name}-{step:02}.png"
        (folder / file).write_bytes(encode(frame))
        rows.append({"image": file, "input": world.instruction, "action": [round(float(a), 6) for a in action]})
        if done := world.act(action):
            break
    for step, row in enumerate(rows):
        left = len(rows) - step
        earned = 1 - 2 * (left - 1) / world.limit if done and world.success else -1.0
        yield {**row, **({"return": round(earned, 6)} if returns else {})}
