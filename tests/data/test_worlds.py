"""A gridworld and its demonstrations: the expert succeeds, rows are its steps, real robots' files become rows."""
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meristem.codecs.action import Ranges
from meristem.core.errors import RequestError
from meristem.corpus.pictures import Tar
from meristem.data import demonstrations
from meristem.data.arm import UNSEEN, Arm
from meristem.data.babyai import Babyai, number_of, value_of
from meristem.data.gridworld import Gridworld, make
from meristem.data.worlds import WORLD, attempt, opened, together

KIND = Gridworld(documents=12)


def test_the_expert_succeeds_and_others_do_not() -> None:
    worlds = [KIND.episode("test", n) for n in range(40)]
    runs = [attempt(world, lambda told, frame, w=world: w.expert()) for world in worlds]
    assert all(run.success and run.steps <= 5 for run in runs)
    halt = [np.array([0, 0, 1.0])]
    stay = together([KIND.episode("test", n) for n in range(40)], lambda told, frames: halt * len(told))
    assert not any(run.success for run in stay) and all(run.steps == 1 for run in stay)
    walk = together([KIND.episode("test", 0)], lambda told, frames: [np.array([1.0, 0, -1])] * len(told))
    assert walk[0].steps == 2 * KIND.size and not walk[0].success


def test_the_frame_shows_everything() -> None:
    world = KIND.episode("train", 0)
    before = world.frame()
    assert before.shape == (3, 40, 40)
    world.at = next(cell for cell in world.things if cell != world.at)
    moved = (world.frame() != before).any(0)
    assert moved.sum() == 2 * (4 * KIND.cell - 4), "the frame of two cells, and what stands in them is still there"


def test_unseen_pairs_are_nowhere_in_training() -> None:
    new = set(KIND.unseen())
    assert len(new) == 2
    for number in range(60):
        assert not new & set(KIND.episode("train", number).things.values())
        world = KIND.episode("test", number)
        target = world.things[world.target]
        assert target in new and not new & (set(world.things.values()) - {target})
        like = [t for t in world.things.values() if t != target and (t[0] == target[0] or t[1] == target[1])]
        assert len(like) == KIND.things - 1, "each word alone leads astray"
    assert KIND.episode("test", 3).instruction == KIND.episode("test", 3).instruction


def test_worldly_questions_name_what_no_demonstration_does(tmp_path: Path) -> None:
    make(tmp_path / "grid", {"documents": 30, "worldly": 1.0, "questions": 0.0})
    kind = Gridworld(documents=30)
    names = [" ".join(pair) for pair in kind.unseen()]
    rows = [json.loads(line) for line in (tmp_path / "grid.rows" / "train.jsonl").read_text().splitlines()]
    steps, asked = [r for r in rows if "action" in r], [r for r in rows if "target" in r]
    assert len(steps) == len(asked) and not any(name in r["input"] for r in steps for name in names)
    found = {r["target"] for r in asked if any(name in r["input"] for name in names)}
    assert {"yes", "no"} < found and any(" " in target for target in found)
    world = next(w for w in (kind.episode("asked train", n) for n in range(99)) if w.things[w.target] in kind.unseen())
    rng = np.random.default_rng(0)
    for _ in range(40):
        row = kind.worldly_question(rng, world)
        name = row["input"].rstrip("?").split(" a " if row["input"].startswith("is") else " the ")[1]
        places = {" ".join(thing): cell for cell, thing in world.things.items()}
        if row["target"] in ("yes", "no"):
            assert (name in places) == (row["target"] == "yes")
        else:
            x, y = places[name]
            assert row["target"] == f"{('top', 'top', 'middle', 'middle', 'bottom')[y]} " \
                                    f"{('left', 'left', 'centre', 'centre', 'right')[x]}"


def test_recorded_steps_lead_to_the_goal_again(tmp_path: Path) -> None:
    corpus = make(tmp_path / "grid", {"documents": 12, "returns": True, "wander": 0.3})
    rows = [json.loads(line) for line in (tmp_path / "grid.rows" / "train.jsonl").read_text().splitlines()]
    steps, asked = [r for r in rows if "action" in r], [r for r in rows if "target" in r]
    assert asked and all(r["input"].startswith("is there a") for r in asked)
    told = tmp_path / "grid.rows" / WORLD
    assert opened(told) == (Gridworld(documents=12, returns=True, wander=0.3), 3)
    (tmp_path / "other.json").write_text('{"kind": "gridwold"}')
    with pytest.raises(RequestError, match="did you mean gridworld"):
        opened(tmp_path / "other.json")
    episodes = {}
    for row in steps:
        episodes.setdefault(row["image"].rsplit("-", 1)[0], []).append(row)
    assert len(episodes) == 12
    kind = Gridworld(documents=12, wander=0.3)
    for name, own in episodes.items():
        world = kind.episode("train", int(name.split("-")[1]))
        assert world.instruction == own[0]["input"]
        over = [world.act(np.array(row["action"])) for row in own]
        assert own[-1]["return"] == (1.0 if over[-1] and world.success else -1.0)
    document = next(d for d in corpus.documents("train") if "action" in d.fields)
    assert document.fields["image"] in Tar(corpus.folder / "train.tar")
    for wrong in ({"size": 2}, {"things": 30}, {"questions": 1.0}):
        with pytest.raises(RequestError, match="no such gridworld"):
            make(tmp_path / "no", wrong)


def test_real_demonstrations_become_rows(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "bridge"
    folder.mkdir()
    actions = rng.normal(size=(5, 3, 7)) * np.arange(1, 8)
    lines = [json.dumps({"episode": n, "instruction": f"put {n}", "action": a.tolist()}) for n, a in enumerate(actions)]
    (folder / "episodes.jsonl").write_text("\n".join(lines))
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="JPEG")
    with tarfile.open(folder / "frames.tar", "w") as tar:
        for n in range(5):
            for step in range(3):
                member = tarfile.TarInfo(f"{n:02}/cam0_{step:02}.jpg")
                member.size = len(picture.getvalue())
                tar.addfile(member, io.BytesIO(picture.getvalue()))
    corpus = demonstrations.make(folder, tmp_path / "out")
    ranges = Ranges.read(tmp_path / "out.rows")
    seen = {split: [d.fields for d in corpus.documents(split)] for split in ("train", "validation", "test")}
    assert {split: len({f["input"] for f in some}) for split, some in seen.items()} == {
        "train": 3, "validation": 1, "test": 1}, "whole episodes"
    for fields in seen["train"]:
        true = actions[int(fields["input"].split()[1])]
        assert np.abs(ranges.widen(np.array(fields["action"])) - true).sum(1).min() < 1.0
    door = tmp_path / "door"
    door.mkdir()
    arrays = {f"{key}_{n:02}": rng.normal(size=(20, width)).astype(np.float32)
              for n in range(4) for key, width in (("observations", 39), ("actions", 28))}
    np.savez(door / "door_demos.npz", **arrays)
    row = next(demonstrations.make(door, tmp_path / "door.out").documents("train")).fields
    assert (len(row["state"]), len(row["action"])) == (39, 28) and -1 <= row["return"] <= 1
    with pytest.raises(RequestError, match="no demonstrations"):
        demonstrations.make(tmp_path, tmp_path / "x")


def test_the_arm_touches_what_it_is_told_to() -> None:
    pytest.importorskip("mujoco")
    kind = Arm(documents=2)
    runs = [attempt(world, lambda told, frame, w=world: w.expert()) for world in
            (kind.episode("test", n) for n in range(12))]
    assert np.mean([run.success for run in runs]) >= 0.75
    world = kind.episode("test", 0)
    assert world.target in UNSEEN and world.balls[world.target][0] < 0 and world.frame().shape == (3, 40, 40)
    before = world.frame()
    world.act(np.array([1.0, 1.0]))
    assert (world.frame() != before).any()


def test_a_level_of_babyai_is_a_world() -> None:
    pytest.importorskip("minigrid")
    assert [number_of(value_of(n)) for n in range(7)] == list(range(7))
    kind = Babyai()
    world = kind.episode("test", 0)
    assert any(pair in world.instruction for pair in ("red ball", "blue key", "green box"))
    assert world.frame().shape[0] == 3
    assert attempt(world, lambda told, frame: world.expert()).success
    with pytest.raises(RequestError, match="no level"):
        Babyai(level="BabyAI-Nothing-v0").episode("train", 0)
