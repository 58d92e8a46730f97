"""Films go through the same run: autoencoder, towers, diffusion told a text or a first frame, GIFs, scores, notices."""
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem.cli.main import main
from meristem.codecs import video
from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.corpus.made import LICENCE, made
from meristem.corpus.store import NOTICE, Corpus
from meristem.data import clips
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.generate.pictures import Wish, paint
from meristem.govern.card import write as write_card
from meristem.recipes import resolve
from meristem.train.painting import open_painter
from meristem.train.run import assemble, pretrain

TINY = {"train.steps": 2, "train.batch": 4, "train.warmup": 1, "train.dtype": "float32", "data.codec.vocab": 300}
TOWER = {"dim": 16, "layers": 1, "heads": 2}
FRAMES = 5


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return clips.make(tmp_path_factory.mktemp("clips") / "corpus", {"documents": 30, "frames": FRAMES})


@pytest.fixture(scope="module")
def runs(films: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """autoencoder, towers and diffusion, each trained two steps."""
    folder, data = tmp_path_factory.mktemp("films"), {**TINY, "data.corpus": str(films.folder)}
    pretrain(resolve("film_autoencoder", {**data, "model.channels": [8, 8, 8], "model.frames": FRAMES,
                                          "model.groups": 4})[0], folder / "autoencoder")
    pretrain(resolve("film_clip", {**data, "model.frames": FRAMES, "model.text": TOWER, "model.vision": TOWER})[0],
             folder / "towers")
    pretrain(resolve("film", {**data, "model.frames": 2, "model.dim": 32, "model.layers": 1, "model.heads": 2,
                              "model.cross": 16, "objective.autoencoder": str(folder / "autoencoder"),
                              "objective.text": str(folder / "towers"), "train.sample_every": 2})[0], folder / "film")
    return folder


def test_films_are_painted_and_begin_with_a_picture(runs: Path, films: Corpus, tmp_path: Path) -> None:
    painter = open_painter(runs / "film")
    new = paint(painter, Wish(("a red circle moving right",) * 3, steps=2))
    assert new.shape == (3, FRAMES, 3, 16, 16)
    alone = paint(painter, Wish(("a red circle moving right",), steps=2))
    torch.testing.assert_close(alone[0], new[0], atol=1e-4, rtol=0)
    frame = clips.Clips(frames=FRAMES).film("train", 0)[0][0]
    given = torch.from_numpy(frame).float() / 127.5 - 1
    begun = paint(painter, Wish(("a red circle moving right",) * 3, steps=2, how="begin", image=given))
    codec = painter.autoencoder
    parity = codec.decode(codec.encode(given[None, None]))[0, 0].detach().clamp(-1, 1)
    torch.testing.assert_close(begun[:, 0], parity.expand(3, -1, -1, -1), atol=1e-4, rtol=0)
    assert not torch.equal(begun[0, 1:], begun[1, 1:])
    (tmp_path / "first.png").write_bytes(encode(frame))
    out = tmp_path / "films.gif"
    assert main(["generate", str(runs / "film"), "a red circle moving right", "--out", str(out), "--count", "4",
                 "--steps", "2", "--image", str(tmp_path / "first.png")]) == 0
    assert video.decode(out.read_bytes()).shape == (FRAMES, 3, 38, 38)
    assert main(["generate", str(runs / "film"), "x", "--out", str(tmp_path / "films.png"), "--steps", "1"]) == 2
    assert (runs / "film" / "samples" / "2.gif").is_file()


def test_a_known_first_frame_is_clean_and_not_scored(runs: Path, films: Corpus) -> None:
    run = resolve("film", {**TINY, "data.corpus": str(films.folder), "model.frames": 2, "model.dim": 32,
                           "model.layers": 1, "model.heads": 2, "model.cross": 16, "objective.first": 0.99,
                           "objective.autoencoder": str(runs / "autoencoder"), "objective.text": str(runs / "towers")})
    parts = assemble(run[0])
    objective = parts.objective
    batch = objective.prepare(parts.held_out[0])
    assert batch["known"][:, 0].all() and not batch["known"][:, 1].any()
    given = objective.inputs(batch)
    assert torch.equal(given["images"][:, 0], batch["images"][:, 0])
    assert not torch.allclose(given["images"][:, 1], batch["images"][:, 1])
    said = torch.randn_like(batch["images"])
    loss = objective.score(said, batch)[0]
    said[:, 0] += 1
    assert torch.equal(objective.score(said, batch)[0], loss)
    with pytest.raises(RequestError, match="model.name=video_dit"):
        assemble(resolve("film", {**TINY, "data.corpus": str(films.folder), "model": {"name": "gpt2", "fields": {
            "dim": 16, "layers": 1, "heads": 2}}})[0])


def test_scores_of_films(runs: Path, films: Corpus) -> None:
    scores = evaluate(Subject.open(runs / "towers"), films, ["film_classes"], limit=3)
    assert [s.name for s in scores] == ["film_classes", "film_classes_shuffled"]
    scores = evaluate(Subject.open(runs / "film"), films, ["film_motion"], limit=2)
    assert [s.name for s in scores][:2] == ["film_identity", "film_motion"]
    assert scores[0].baseline and scores[0].baseline.value == 1.0, "real films keep their colour"


def test_a_notice_is_repeated_on_the_card(tmp_path: Path) -> None:
    def rows(split, folder):
        (folder / NOTICE).write_text("NOT FOR CLINICAL USE.\n")
        return [{"input": f"{split} {n}", "target": "yes", "action": [0.0]} for n in range(8)]
    corpus = made(tmp_path / "rows", "test", LICENCE, rows)
    run = resolve("gpt2", {**TINY, "data.corpus": str(corpus.folder), "train.context": 8, "model.dim": 16,
                           "model.layers": 1, "model.heads": 2, "train.compile": False})[0]
    folder = pretrain(run, tmp_path / "run")
    assert read_json(folder / "manifest.json")["notice"] == "NOT FOR CLINICAL USE."
    assert "> **NOT FOR CLINICAL USE.**" in write_card(folder).read_text()
    assert np.isfinite(read_json(folder / "result.json")["loss"])
