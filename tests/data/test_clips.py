"""Films: bytes both ways, what the maker draws, what the tracker sees, batches, sprite sheets."""
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meristem.codecs import bpe, video
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.data import sprites
from meristem.data.clips import MOTIONS, Clips, make, source, track


def test_films_go_through_gif_and_back() -> None:
    frames = np.stack([Clips().film("train", 3)[0][i] for i in range(17)])
    again = video.decode(video.encode(frames, 0.05))
    assert again.shape == frames.shape and np.abs(again.astype(int) - frames).max() <= 8, "256 colours"
    assert video.decode(video.encode(frames), size=8, channels=1).shape == (17, 1, 8, 8)
    assert video.evenly(5, 3).tolist() == [0, 2, 4] and video.evenly(2, 4).tolist() == [0, 1, 1, 1]
    assert video.side_by_side(np.stack([frames] * 3)).shape == (17, 3, 38, 38)
    with pytest.raises(RequestError, match="no picture"):
        video.decode(b"GIF89a")


def test_the_tracker_sees_what_the_maker_drew() -> None:
    kind = Clips(motions=len(MOTIONS))
    right, straight = [], []
    for number in range(60):
        film, caption, motion = kind.film("train", number)
        seen = track(film)
        right.append(seen.motion == motion and seen.colour in caption and seen.kept == 1.0)
        if motion.startswith("moving"):
            mixed = seen.bend(np.random.default_rng(number).permutation(17))
            straight.append((seen.bend(), mixed))
    assert np.mean(right) == 1.0
    assert max(a for a, _ in straight) < 0.02 < min(b for _, b in straight)
    empty = track(np.full((5, 3, 16, 16), 240, dtype=np.uint8))
    assert empty.kept == 0 and np.isnan(empty.bend()) and empty.motion == ""


def test_batches_of_films(tmp_path: Path) -> None:
    corpus = make(tmp_path / "clips", {"documents": 12, "frames": 5})
    codec = bpe.fit([d.text for d in corpus.documents("train")], 300)
    made = source(corpus, codec, "train", (3, 16, 3), 8, (4, 0, 0))
    (batch,) = made(0)
    assert batch["images"].shape == (4, 3, 3, 16, 16) and batch["tokens"].shape == (4, 9)
    document = next(corpus.documents("train"))
    number = int(next(n for n in range(12) if Clips(frames=5).film("train", n)[1] == document.text))
    films = {Clips(frames=5).film("train", n)[0][[0, 2, 4]].tobytes() for n in range(number, 12)}
    assert np.array(made.pixels[0]).tobytes() in films
    with pytest.raises(RequestError, match="no such films"):
        make(tmp_path / "x", {"frames": 2})


def test_an_animated_picture_is_a_film(tmp_path: Path) -> None:
    for number in range(48):
        frames = Clips(side=16).film("train", number)[0]
        (tmp_path / f"{number}.gif").write_bytes(video.encode(frames))
        (tmp_path / f"{number}.txt").write_text(f"film {number}")
    corpus = labelled(tmp_path, tmp_path.with_name("films"))
    codec = bpe.fit(["film"], 300)
    assert source(corpus, codec, "train", (9, 16, 3), 8, (2, 0, 0))(0)[0]["images"].shape == (2, 9, 3, 16, 16)


def test_sprites_are_laid_over_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "sheets"
    folder.mkdir()
    with tarfile.open(folder / sprites.SHEETS, "w:gz") as tar:
        for layer, colours in zip(sprites.LAYERS, ("red", "blue", "green", "white", "black", "yellow"), strict=True):
            for which in range(2):
                sheet = Image.new("RGBA", (832, 1344), (0, 0, 0, 0))
                sheet.paste(colours, (0, 10 * sprites.LAYERS.index(layer), 832, 1344))
                raw = io.BytesIO()
                sheet.save(raw, format="PNG")
                member = tarfile.TarInfo(f"{layer}/{which}.png")
                member.size = len(raw.getvalue())
                tar.addfile(member, io.BytesIO(raw.getvalue()))
    corpus = sprites.make(folder, tmp_path / "out", films=6)
    document = next(corpus.documents("train"))
    frames = next(count for _, count, verb in sprites.ACTIONS.values() if verb in document.text)
    assert document.fields["label"] == document.text and document.text.startswith("a character ")
    assert len(document.fields["images"]) == frames
    with pytest.raises(RequestError, match="no archive"):
        sprites.make(tmp_path, tmp_path / "no")
