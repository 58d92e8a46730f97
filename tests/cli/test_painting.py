"""A run of pictures leaves grids behind, and `generate` paints, edits, varies and enlarges with it."""
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.image import decode, encode
from meristem.data import scenes
from meristem.generate.watermark import trace
from meristem.recipes import resolve
from meristem.train.run import pretrain

TINY = {"model.image": 16, "model.channels": [16, 32], "model.attention": [False, True], "model.head_dim": 16,
        "train.steps": 3, "train.batch": 8, "train.compile": False, "train.warmup": 1, "train.sample_every": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a run told classes and one that enlarges."""
    root = tmp_path_factory.mktemp("painting")
    corpus = scenes.make(root / "scenes", {"documents": 40, "side": 16, "held_out": 0.0})
    for name, more in (("painter", {"model.classes": 1 + len(corpus.summary["labels"])}),
                       ("large", {"model.inputs": 6, "model.outputs": 3, "objective.low": 4, "train.sample_every": 0})):
        pretrain(resolve("diffusion", {**TINY, **more, "data.corpus": str(corpus.folder)})[0], root / name)
    return root


def pixels(path: Path) -> np.ndarray:
    return decode(path.read_bytes())


def test_a_run_paints_while_it_trains(made: Path) -> None:
    assert sorted(p.name for p in (made / "painter" / "samples").iterdir()) == ["2.png", "3.png"]
    grid = pixels(made / "painter" / "samples" / "3.png")
    assert grid.shape == (3, 38, 38) and (grid[:, :2] == 255).all()            # 4 of the validation split, 2 x 2


def test_what_follows_a_run_fits_it(run, made: Path) -> None:
    for name, words in (("painter", "--out grid.png"), ("large", "--enlarge PICTURE --out grid.png")):
        assert run("pretrain", "--from", made / name).out.endswith(f"next: meristem generate {made / name} {words}\n")


def test_pictures_of_a_class(run, made: Path, tmp_path: Path) -> None:
    words = ["generate", made / "painter", "red circle", "--steps", "2", "--count", "5", "--out"]
    facts = run(*words, tmp_path / "a.png", "--json").json
    assert facts["count"] == 5 and facts["side"] == 16 and facts["how"] == "new"
    run(*words, tmp_path / "b.png")
    run(*words, tmp_path / "c.png", "--seed", "1")
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert a.shape == (3, 38, 56) and np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_watermark_is_in_every_picture(run, made: Path, tmp_path: Path) -> None:
    words = ["generate", made / "painter", "red circle", "--steps", "2", "--count", "4", "--out"]
    run(*words, tmp_path / "plain.png")
    run(*words, tmp_path / "marked.png", "--watermark", "secret")
    z = {}
    for name in ("plain", "marked"):
        grid = pixels(tmp_path / f"{name}.png")
        cells = np.stack([grid[:, top:top + 16, left:left + 16] for top in (2, 20) for left in (2, 20)])
        z[name] = trace(cells, "secret")
    assert (z["marked"] > z["plain"] + 1.2).all()              # 16 x 16 places carry little of it


def test_edits_keep_what_the_mask_leaves(run, made: Path, tmp_path: Path) -> None:
    old = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    mask = np.zeros((1, 16, 16), dtype=np.uint8)
    mask[:, 5:9, 2:7] = 255
    for name, array in (("old", old), ("mask", mask)):
        (tmp_path / f"{name}.png").write_bytes(encode(array))
    words = ["generate", made / "painter", "red circle", "--steps", "2", "--count", "1", "--out", tmp_path / "new.png",
             "--edit", tmp_path / "old.png"]
    assert run(*words, "--mask", tmp_path / "mask.png").status == 0
    new = pixels(tmp_path / "new.png")[:, 2:-2, 2:-2]
    assert np.array_equal(new[:, mask[0] == 0], old[:, mask[0] == 0]) and not np.array_equal(new, old)
    assert run(*words, "--extend", "4").status == 0            # a border of 4 is new, the middle is the smaller picture
    wide = pixels(tmp_path / "new.png")[:, 2:-2, 2:-2].astype(int)
    small = old.reshape(3, 8, 2, 8, 2).mean((2, 4))
    assert np.abs(wide[:, 4:12, 4:12] - small).max() <= 1
    assert run(*words[:-2], "--variations", tmp_path / "old.png", "--strength", "0.3").status == 0


def test_a_picture_is_enlarged(run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encode(np.full((3, 4, 6), 90, dtype=np.uint8)))
    words = ["generate", made / "large", "--steps", "2", "--count", "1", "--out", tmp_path / "out.png"]
    assert run(*words, "--enlarge", tmp_path / "small.png").status == 0
    assert pixels(tmp_path / "out.png").shape == (3, 20, 20)
    assert "it can: enlarge" in run(*words).complaint


@pytest.mark.parametrize(("more", "what"), [
    (["red circle"], "say where to"), (["red circle", "--out", "x.jpg"], "no PNG"),
    (["a dog", "--out", "x.png"], "paints no 'a dog'"), (["--out", "x.png", "--edit", "none.png"], "No such file"),
    (["--out", "x.png", "--mask", "m.png"], "give it with --edit"),
    (["--out", "x.png", "--edit", "a.png", "--enlarge", "a.png"], "four requests"),
    (["--out", "x.png", "--sampler", "euler", "--steps", "3"], "follows a flow")])
def test_requests_that_cannot_be(run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str],
                                 what: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("generate", made / "painter", *more)
    assert result.status == 2 and what in result.complaint


def test_the_distance_is_a_certificate(run, made: Path) -> None:
    words = ["evaluate", made / "painter", "--corpus", made / "scenes", "--tasks", "frechet", "--limit", "4", "--json"]
    score = run(*words).json["scores"][0]
    assert score["name"] == "frechet" and score["n"] == 4 and not score["higher_is_better"]
    assert score["interval"]["low"] <= score["value"] <= score["interval"]["high"]
    assert score["ceiling"]["value"] < score["value"] and "another training picture" in score["baseline"]["what"]
    assert (made / "painter" / "evals" / "frechet.json").is_file()
