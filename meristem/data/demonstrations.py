"""Demonstrations of real robots as rows: BridgeData's episodes with pictures, the DAPG door's without.

    meristem curate robot:bridge-robot --out runs/bridge       # episodes.jsonl, frames.tar
    meristem curate robot:dapg-door --out runs/door            # door_demos.npz

Whole episodes go to one split. Numbers are brought to -1 .. 1 between the 1st and 99th percentile of the training
episodes (`codecs.action.Ranges`), which stand beside the rows in ranges.json: with them an action is a robot's again.
A door's row holds the state, since there are no frames, and the return of `data.worlds`: 1 at success.
"""
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from meristem.codecs.action import Ranges
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.pictures import Tar
from meristem.corpus.store import Corpus

EPISODES, FRAMES, DOOR = "episodes.jsonl", "frames.tar", "door_demos.npz"
SHARES = {"test": 0.2, "validation": 0.1}
EVERY = 8                               # steps of a door between two rows: 25 demonstrations have 6,729


def make(source: Path, out: Path, seed: int = 0, camera: int = 0) -> Corpus:
    """The corpus of a folder of demonstrations; RequestError when it is none of the two kinds."""
    if (source / EPISODES).is_file() and (source / FRAMES).is_file():
        episodes = _bridge(source, camera)
    elif (source / DOOR).is_file():
        episodes = _door(source / DOOR)
    else:
        raise RequestError(f"{source} holds no demonstrations: {EPISODES} with {FRAMES}, or {DOOR}")
    order = np.random.default_rng(seed_of(seed, "episodes")).permutation(len(episodes))
    where: dict[str, list[int]] = {}
    start = 0
    for split, share in SHARES.items():
        stop = start + max(1, round(share * len(episodes)))
        where[split], start = sorted(order[start:stop].tolist()), stop
    where["train"] = sorted(order[start:].tolist())
    train = [step for i in where["train"] for step in episodes[i]]
    ranges = {key: Ranges.of(np.array([step[key] for step in train])) for key in ("action", "state") if key in train[0]}
    frames = Tar(source / FRAMES) if (source / FRAMES).is_file() else None

    def rows(split: str, folder: Path) -> Iterator[Row]:
        ranges["action"].save(folder)
        for i in where[split]:
            for step in episodes[i]:
                row: Row = {key: value for key, value in step.items() if key not in ranges}
                row |= {key: [round(float(x), 4) for x in own.shrink(np.array(step[key]))]
                        for key, own in ranges.items()}
                if frames is not None:
                    name = step["image"].replace("/", "-")
                    (folder / name).write_bytes(frames[step["image"]])
                    row = {**row, "image": name}
                yield row

    terms = source / "LICENSE"
    return made(out, "demonstrations", terms.read_text(encoding="utf-8") if terms.is_file() else "unknown\n", rows)


def _bridge(source: Path, camera: int) -> list[list[dict[str, Any]]]:
    """A list of steps an episode: frame, instruction, action."""
    lines = (source / EPISODES).read_text(encoding="utf-8").splitlines()
    return [[{"image": f"{tree['episode']:02}/cam{camera}_{step:02}.jpg", "input": tree["instruction"],
              "action": action} for step, action in enumerate(tree["action"])] for tree in map(json.loads, lines)]


def _door(path: Path) -> list[list[dict[str, Any]]]:
    """Every EVERY-th step of each demonstration: state, action and the return, which is 1 when the door is open."""
    arrays = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    out = []
    for number in range(sum(name.startswith("actions_") for name in arrays.files)):
        state, action = arrays[f"observations_{number:02}"], arrays[f"actions_{number:02}"]
        left = np.arange(len(action))[::-1] / len(action)
        out.append([{"input": "open the door", "return": round(float(1 - 2 * left[i]), 4), "state": state[i].tolist(),
                     "action": action[i].tolist()} for i in range(0, len(action), EVERY)])
    return out
