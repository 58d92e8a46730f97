"""What is left out of a corpus of pictures, and why: rules, copies of other bytes, their twins in the ledger."""
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from meristem.cli.main import main
from meristem.core.errors import RequestError
from meristem.corpus import phash
from meristem.corpus.labelled import labelled
from meristem.data import scenes
from meristem.data.sieve import Sieve, small

KIND = scenes.Scenes()
PAIRS = [n for n in range(400) if len(KIND.scene("train", n)[0]) == 2]         # a single shape may be drawn twice


def scene(number: int, side: int = 64) -> np.ndarray:
    """The n-th scene of two objects."""
    return scenes.draw(KIND.scene("train", PAIRS[number])[0], side)[0]


def image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.transpose(1, 2, 0))


def again(pixels: np.ndarray, kind: str) -> np.ndarray:
    """The same picture after something that happens to pictures on their way."""
    before = image(pixels)
    if kind == "jpeg":
        out = io.BytesIO()
        before.save(out, format="JPEG", quality=60)
        after = Image.open(out).convert("RGB")
    elif kind == "smaller":
        after = before.resize((40, 40), Image.Resampling.BICUBIC)
    else:
        after = before.point(lambda value: min(255, round(value * 1.015)))
    return np.asarray(after).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["jpeg", "smaller", "brighter"])
def test_a_copy_of_other_bytes_is_found_and_other_pictures_are_not(kind: str) -> None:
    seen = phash.Seen()
    assert [seen.twin(str(n), small(scene(n))) for n in range(50)] == [None] * 50
    twins = [seen.twin("new", small(again(scene(n), kind))) for n in range(50)]
    found = [(str(n), twin[0]) for n, twin in enumerate(twins) if twin]
    assert len(found) >= 49 and all(one == other for one, other in found)      # FLIPS are measured for 99 of 100


def test_the_same_shape_in_another_colour_is_no_copy() -> None:
    seen = phash.Seen()
    one = scenes.Object("red", "circle", 0.5, 0.5, 0.3)
    other = scenes.Object("orange", "circle", 0.5, 0.5, 0.3)
    assert seen.twin("a", small(scenes.draw([one], 64)[0])) is None
    assert seen.twin("b", small(scenes.draw([other], 64)[0])) is None
    assert seen.twin("c", small(scenes.draw([one], 48)[0])) == ("a", pytest.approx(0, abs=3))


def test_many_pictures_outgrow_the_first_room() -> None:
    seen, rng = phash.Seen(), np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 3, 32, 32), dtype=np.uint8)
    assert [seen.twin(str(n), one) for n, one in enumerate(noise)] == [None] * 300
    assert [seen.twin("x", one) for one in noise] == [(str(n), 0.0) for n in range(300)]


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Forty scenes, and one picture for every rule."""
    folder = tmp_path / "found"
    folder.mkdir()
    for n in range(40):
        image(scene(n)).save(folder / f"{n:02}.png")
    image(again(scene(3), "smaller")).save(folder / "copy.png")
    image(scene(50, 12)).save(folder / "tiny.png")
    long = Image.new("RGB", (200, 20), "white")
    ImageDraw.Draw(long).ellipse((0, 0, 90, 18), fill="blue")
    long.save(folder / "long.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "blank.png")
    (folder / "torn.png").write_bytes((folder / "07.png").read_bytes()[:300])
    image(scene(60)).save(folder / "silent.png")
    for file in folder.glob("*.png"):
        if file.stem != "silent":
            file.with_suffix(".txt").write_text(f"picture {file.stem}")
    return folder


def test_the_ledger_says_why_and_names_the_twin(found: Path, tmp_path: Path) -> None:
    corpus = labelled(found, tmp_path / "out", sieve=Sieve())
    lines = {Path(row["path"]).name: row for row in corpus.ledger()}
    assert len(lines) == 46
    dropped = {name: row for name, row in lines.items() if row["verdict"] == "dropped"}
    pair = {"03.png", "copy.png"} & dropped.keys()
    assert dropped.keys() == {"tiny.png", "long.png", "blank.png", "torn.png", "silent.png"} | pair and len(pair) == 1
    rules = {name: row["rule"] for name, row in dropped.items()}
    assert rules["tiny.png"] == "shorter_side" and rules["long.png"] == "elongation" and rules["blank.png"] == "spread"
    assert rules["torn.png"] == "unreadable" and rules["silent.png"] == "words"
    twin = dropped[pair.pop()]
    assert twin["rule"] == "near_duplicate" and 0 < twin["value"] <= phash.DIFFERENT
    assert {Path(twin["path"]).name, Path(twin["witness_path"]).name} == {"03.png", "copy.png"}
    assert corpus.summary["dropped"]["near_duplicate"]["documents"] == 1
    assert corpus.summary["seen"]["documents"] == 46 and corpus.summary["rules"]["shorter_side"] == 16
    kept = [d for split in ("train", "validation", "test") for d in corpus.documents(split)]
    assert len(kept) == 40
    assert labelled(found, tmp_path / "out", sieve=Sieve()).hash == corpus.hash
    assert labelled(found, tmp_path / "out", sieve=Sieve(words=0)).hash != corpus.hash


def test_a_copy_in_training_gives_way_to_the_test_split(tmp_path: Path) -> None:
    for split, numbers in (("train", range(20)), ("test", range(20, 24)), ("validation", range(24, 28))):
        rows = [(f"{n}.png", scene(n)) for n in numbers]
        rows += [("late.png", again(scene(21), "jpeg"))] if split == "train" else []
        for name, pixels in rows:
            image(pixels).save(tmp_path / name)
        (tmp_path / f"{split}.jsonl").write_text("".join(
            json.dumps({"image": name, "text": f"from {name}"}) + "\n" for name, _ in rows))
    corpus = labelled(tmp_path, tmp_path.with_name("out"), sieve=Sieve())
    [row] = [row for row in corpus.ledger() if row["verdict"] == "dropped"]
    assert row["path"].startswith("train.jsonl") and row["witness_path"].startswith("test.jsonl")


def test_from_the_command_line(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = []
    for _ in range(2):
        assert main(["curate", f"pictures:{found}", "--out", str(tmp_path / "pairs"), "--json"]) == 0
        facts.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert facts[0]["dropped"]["near_duplicate"]["documents"] == 1 and facts[0]["hash"] == facts[1]["hash"]
    assert main(["curate", f"pictures:{tmp_path / 'no'}", "--out", str(tmp_path / "x")]) == 2
    assert "name one that exists" in capsys.readouterr().err
    with pytest.raises(RequestError, match="no rows for"):
        labelled(found, tmp_path / "none", sieve=Sieve(shorter_side=999))
