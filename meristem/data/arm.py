"""An arm of two links in MuJoCo that touches the ball it is told to: "touch the red ball".

    meristem curate toy:arm documents=300 --out runs/arm
    meristem evaluate runs/rt2 --corpus runs/arm --tasks closed_loop=runs/arm.rows/world.json

Needs `pip install meristem[robots]` (mujoco: Todorov et al. 2012). An action is two numbers, the speeds that the joints
should have for STEP seconds of simulated time, as shares of 3 radians a second; velocity servos do the rest. The first
ball that the hand touches ends the episode, in success if it is the one that was named. MuJoCo's own pictures need a
graphics library, so the frame is drawn here: the arm from above as a row of dots. Balls of the colours UNSEEN are never
named on the left in training; the test split names them there.
"""
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import LICENCE, Row
from meristem.corpus.store import Corpus
from meristem.data import worlds
from meristem.data.scenes import Object, draw
from meristem.data.worlds import recorded

DIMS = 2
COLOURS = ("red", "green", "blue", "yellow")
UNSEEN = ("red", "blue")                # named on the left in the test split only
LINKS, REACH, FAST, STEP = (0.5, 0.4), 0.09, 3.0, 0.1
XML = """<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body>
<joint name="a" type="hinge" axis="0 0 1" damping="0.5"/><geom type="capsule" fromto="0 0 0 {0} 0 0" size="0.03"/>
<body pos="{0} 0 0"><joint name="b" type="hinge" axis="0 0 1" damping="0.5"/>
<geom type="capsule" fromto="0 0 0 {1} 0 0" size="0.03"/><site name="hand" pos="{1} 0 0"/></body></body></worldbody>
<actuator><velocity joint="a" kv="8"/><velocity joint="b" kv="8"/></actuator></mujoco>""".format(*LINKS)


class Episode:
    """One arm among three balls."""

    def __init__(self, balls: dict[str, tuple[float, float]], target: str, joints: tuple[float, float], side: int,
                 limit: int):
        try:
            import mujoco  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ImportError:
            raise RequestError("the arm needs mujoco: pip install meristem[robots]") from None
        self.step = mujoco.mj_step
        self.model = mujoco.MjModel.from_xml_string(XML)
        self.data = mujoco.MjData(self.model)
        self.data.qpos[:] = joints
        mujoco.mj_forward(self.model, self.data)
        self.balls, self.target, self.side, self.limit = balls, target, side, limit
        self.instruction, self.success = f"touch the {target} ball", False

    @property
    def hand(self) -> Float[np.ndarray, "2"]:
        """Where it is."""
        return np.array(self.data.site_xpos[0][:2])

    def frame(self) -> UInt8[np.ndarray, "3 H W"]:
        """From above: the balls, and the arm as dots."""
        a = float(self.data.qpos[0])
        elbow = LINKS[0] * np.array([math.cos(a), math.sin(a)])
        dots = [elbow * share for share in (0.0, 0.33, 0.67, 1.0)]
        dots += [elbow + (self.hand - elbow) * share for share in (0.4, 0.75)]
        things = [Object(colour, "circle", *self._shown(place), 0.06) for colour, place in self.balls.items()]
        things += [Object("black", "circle", *self._shown(dot), 0.02) for dot in dots]
        return draw([*things, Object("black", "ring", *self._shown(self.hand), 0.05)], self.side)[0]

    def _shown(self, place: Any) -> tuple[float, float]:
        return 0.5 + float(place[0]) / 2.1, 0.5 - float(place[1]) / 2.1

    def act(self, action: Float[np.ndarray, "2"]) -> bool:
        """Joint speeds for STEP seconds."""
        self.data.ctrl[:] = np.clip(np.asarray(action, dtype=float), -1, 1) * FAST
        for _ in range(round(STEP / 0.01)):
            self.step(self.model, self.data)
            for colour, place in self.balls.items():
                if float(np.hypot(*(self.hand - place))) < REACH:
                    self.success = colour == self.target
                    return True
        return False

    def expert(self) -> Float[np.ndarray, "2"]:
        """Towards the ball, by the inverse of the hand's Jacobian, damped where the arm is stretched."""
        a, b = (float(q) for q in self.data.qpos)
        across, along = LINKS
        j = np.array([[-across * math.sin(a) - along * math.sin(a + b), -along * math.sin(a + b)],
                      [across * math.cos(a) + along * math.cos(a + b), along * math.cos(a + b)]])
        way = np.array(self.balls[self.target]) - self.hand
        speed = j.T @ np.linalg.solve(j @ j.T + 0.01 * np.eye(2), way) * 4
        return np.clip(speed / FAST, -1, 1)


@dataclass(frozen=True)
class Arm:
    """What episodes there are: `documents` demonstrations to train on, a tenth of it for each of the other splits."""

    documents: int = 300
    seed: int = 0
    side: int = 40
    limit: int = 30

    @property
    def returns(self) -> bool:
        """Rows do not say what an episode earned."""
        return False

    def episode(self, split: str, number: int) -> Episode:
        """One episode; in the test split the ball that is named is of UNSEEN and on the left."""
        rng = np.random.default_rng(seed_of("arm", self.seed, split, number))
        while True:
            angles = rng.permutation(12)[:3] * (math.tau / 12) + rng.uniform(-0.1, 0.1, 3)
            places = [(float(r * math.cos(t)), float(r * math.sin(t))) for r, t in
                      zip(rng.uniform(0.45, 0.8, 3), angles, strict=True)]
            colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:3]]
            new = colours[0] in UNSEEN and places[0][0] < 0
            made = Episode(dict(zip(colours, places, strict=True)), colours[0],
                           (float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(0.5, 2.0))), self.side, self.limit)
            clear = min(float(np.hypot(*(made.hand - place))) for place in places) > 2 * REACH
            if clear and new == (split == "test"):
                return made

    def rows(self, split: str, folder: Path) -> Iterator[Row]:
        """Demonstrations of a split."""
        for number in range(self.documents if split == "train" else max(1, self.documents // 10)):
            yield from recorded(self.episode(split, number), folder, f"{split}-{number:05}")


def make(out: Path, fields: Mapping[str, Any]) -> Corpus:
    """The corpus in the folder `out`; its rows, frames and `world.json` in `out`.rows."""
    return worlds.make("arm", from_dict(Arm, dict(fields)), out, LICENCE)
