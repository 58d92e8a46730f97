"""Demonstrations of real robots as rows: BridgeData's episodes with pictures, the DAPG door's without.

    meristem curate robot:bridge-robot --out runs/bridge       # episodes.jsonl, frames.tar
    meristem curate robot:dapg-door --out runs/door            # door_demos.npz

Whole episodes go to one split. Numbers are brought to -1 .. 1 between the 1st and 99th percentile of the training
episodes (`codecs.action.Ranges`), which stand beside the rows in ranges.json: with them an action is a robot's again.
A door's row holds the state, since there are no frames, and the return of `data.worlds`: 1 at success. An episode that
is damaged in any step is left out as a whole, with a line of the ledger that says why.
"""
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from meristem.codecs.action import Ranges
from meristem.codecs.image import decode
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.pictures import Tar
from meristem.corpus.store import Corpus

EPISODES, FRAMES, DOOR = "episodes.jsonl", "frames.tar", "door_demos.npz"
SHARES = {"test": 0.2, "validation": 0.1}
EVERY = 8                               # steps of a door between two rows: 25 demonstrations have 6,729
FEWEST = 3                              # whole episodes: one for each split
Steps = list[dict[str, Any]]


def is_one(source: Path) -> bool:
    """Whether a folder holds demonstrations of one of the two kinds."""
    return ((source / EPISODES).is_file() and (source / FRAMES).is_file()) or (source / DOOR).is_file()


def make(source: Path, out: Path, seed: int = 0, camera: int = 0) -> Corpus:
    """The corpus of a folder of demonstrations; RequestError when it is none of the two kinds, or too few are whole."""
    if not is_one(source):
        raise RequestError(f"{source} holds no demonstrations: {EPISODES} with {FRAMES}, or {DOOR}")
    frames = Tar(source / FRAMES) if (source / FRAMES).is_file() else None
    found = _bridge(source, frames, camera) if frames is not None else _door(source / DOOR)
    episodes, left_out = [some for some in found if isinstance(some, list)], [s for s in found if isinstance(s, dict)]
    if len(episodes) < FEWEST:
        why = f"; {left_out[0]['path']}: {left_out[0]['left_out']}, {left_out[0]['value']}" if left_out else ""
        raise RequestError(f"{source} has {len(episodes)} whole episodes and {FEWEST} are needed, one a split{why}")
    order = np.random.default_rng(seed_of(seed, "episodes")).permutation(len(episodes))
    where: dict[str, list[int]] = {}
    start = 0
    for split, share in SHARES.items():
        stop = start + max(1, round(share * len(episodes)))
        where[split], start = sorted(order[start:stop].tolist()), stop
    where["train"] = sorted(order[start:].tolist())
    train = [step for i in where["train"] for step in episodes[i]]
    ranges = {key: Ranges.of(np.array([step[key] for step in train])) for key in ("action", "state") if key in train[0]}

    def rows(split: str, folder: Path) -> Iterator[Row]:
        ranges["action"].save(folder)
        yield from left_out if split == "train" else ()
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


def _bridge(source: Path, frames: Tar, camera: int) -> list[Steps | Row]:
    """A list of steps an episode: frame, instruction, action; or the ledger's line of one that is damaged."""
    out: list[Steps | Row] = []
    width = 0
    for number, line in enumerate((source / EPISODES).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{source.name}/{EPISODES}#{number}"
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError) as error:          # UnicodeDecodeError is a ValueError
            out.append(_refused(place, "not_json", " ".join(str(error).split())[:100]))
            continue
        if not isinstance(tree, dict) or not isinstance(tree.get("episode"), int) or not (
                isinstance(tree.get("instruction"), str) and tree["instruction"].strip()):
            out.append(_refused(place, "no_episode", "an episode has a number, an instruction and actions"))
            continue
        actions = _numbers(tree.get("action"))
        if actions is None or width not in (0, actions.shape[1]):
            out.append(_refused(place, "no_action", "action is a list of equally many numbers for each step, as many "
                                "in each episode"))
            continue
        names = [f"{tree['episode']:02}/cam{camera}_{step:02}.jpg" for step in range(len(actions))]
        try:
            for name in names:
                if name not in frames:
                    raise RequestError(f"{FRAMES} has no {name}")
                decode(frames[name], name=name)
        except RequestError as error:
            out.append(_refused(place, "no_frame", str(error)))
            continue
        width = actions.shape[1]
        out.append([{"image": name, "input": tree["instruction"], "action": action}
                    for name, action in zip(names, actions.tolist(), strict=True)])
    return out


def _door(path: Path) -> list[Steps | Row]:
    """Every EVERY-th step of each demonstration: state, action and the return, which is 1 when the door is open."""
    try:
        arrays = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        files = list(arrays.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise RequestError(f"{path} is no file of arrays that can be read: {error}") from None
    out: list[Steps | Row] = []
    width = (0, 0)
    for number in sorted(int(name[-2:]) for name in files if name.startswith("actions_") and name[8:].isdigit()):
        place = f"{path.parent.name}/{path.name}#{number}"
        try:
            state, action = (_numbers(arrays[f"{key}_{number:02}"]) for key in ("observations", "actions"))
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            out.append(_refused(place, "damaged", " ".join(str(error).split())[:100]))
            continue
        if state is None or action is None or len(state) != len(action) or (
                width not in ((0, 0), (state.shape[1], action.shape[1]))):
            out.append(_refused(place, "no_action", "a state and an action for each step, numbers of one length"))
            continue
        width = state.shape[1], action.shape[1]
        left = np.arange(len(action))[::-1] / len(action)
        out.append([{"input": "open the door", "return": round(float(1 - 2 * left[i]), 4), "state": state[i].tolist(),
                     "action": action[i].tolist()} for i in range(0, len(action), EVERY)])
    return out


def _numbers(value: Any) -> np.ndarray | None:
    """Rows of equally many finite numbers, or None."""
    try:
        rows = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return rows if rows.ndim == 2 and rows.size and np.isfinite(rows).all() else None


def _refused(path: str, rule: str, value: str) -> Row:
    return {"left_out": rule, "path": path, "value": value}
