"""Pictures in a corpus: rows, folders of classes, tars that nothing escapes from, scenes with known truth."""
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.image import decode, encode
from meristem.core.errors import RequestError
from meristem.corpus import pictures
from meristem.corpus.labelled import is_labelled, labelled
from meristem.data import scenes


def colour(*rgb: int) -> bytes:
    return encode(np.broadcast_to(np.array(rgb, dtype=np.uint8)[:, None, None], (3, 4, 6)).copy())


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A folder of classes: 40 pictures, captions beside half of them."""
    for i in range(40):
        folder = tmp_path / "animals" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(colour(i, 2 * i, 3 * i))
        if i % 4 < 2:
            (folder / f"{i}.txt").write_text(f"number {i}\n")
    return tmp_path / "animals"


def test_a_folder_of_classes(animals: Path) -> None:
    assert is_labelled(animals)
    corpus = labelled(animals)
    rows = [d for split in ("train", "validation", "test") for d in corpus.documents(split)]
    assert len(rows) == 40 and corpus.summary["labels"] == ["cats", "dogs"]
    seen = set()
    for split in ("train", "validation", "test"):
        tar = pictures.Tar(corpus.folder / f"{split}.tar")
        for document in corpus.documents(split):
            red = int(decode(tar[document.fields["image"]])[0, 0, 0])
            assert document.fields["label"] == ("cats" if red % 2 else "dogs")
            assert document.text == (f"number {red}" if red % 4 < 2 else "")
            assert tar[f"{document.id}.txt"].decode() == document.text
            seen.add(red)
    assert seen == set(range(40))
    assert labelled(animals).hash == corpus.hash
    (animals / "cats" / "99.png").write_bytes(colour(99, 0, 0))
    assert labelled(animals).hash != corpus.hash


def test_rows_name_their_pictures(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(colour(i, 0, 0))
    rows = [{"image": f"{i}.png", "text": f"red {i}", "label": i % 3} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = labelled(tmp_path / "rows.jsonl")
    assert sum(1 for s in ("train", "validation", "test") for _ in corpus.documents(s)) == 30
    assert labelled(tmp_path / "rows.jsonl").hash == corpus.hash
    (tmp_path / "7.png").write_bytes(colour(7, 7, 7))          # the rows are the same, the picture is not
    assert labelled(tmp_path / "rows.jsonl").hash != corpus.hash


@pytest.mark.parametrize(("row", "why"), [
    ({"image": "../up.png", "text": "x"}, "lies outside"), ({"image": "/etc/passwd", "text": "x"}, "ends in .png"),
    ({"image": "no.png", "text": "x"}, "No such file"), ({"image": "a.exe", "text": "x"}, "ends in .png"),
    ({"image": "a.png", "text": 3}, "are strings")])
def test_rows_that_cannot_be(row: dict, why: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for place in (tmp_path / "up.png", folder / "a.png"):
        place.write_bytes(colour(1, 2, 3))
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RequestError, match=why) as refused:
        labelled(folder / "rows.jsonl")
    assert "rows.jsonl:1" in str(refused.value)


def test_a_tar_gives_regular_members_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name, kind in (("../../x.png", tarfile.REGTYPE), ("link.png", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"abc"))
    found = pictures.Tar(tmp_path / "odd.tar")
    assert dict(found) == {"../../x.png": b"abc"} and not (tmp_path.parent.parent / "x.png").exists()
    (tmp_path / "no.tar").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="no tar file"):
        pictures.Tar(tmp_path / "no.tar")


def test_a_packed_tar_is_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb.tar", "w:gz") as tar:
        member = tarfile.TarInfo("zeros.png")
        member.size = 1 << 20
        tar.addfile(member, io.BytesIO(bytes(1 << 20)))
    assert (tmp_path / "bomb.tar").stat().st_size < 5000
    with pytest.raises(RequestError, match="no tar file"):
        pictures.Tar(tmp_path / "bomb.tar")


@pytest.mark.parametrize(("raw", "why"), [(b"\xff\xfe", "can't decode|invalid"), (b"a" * 70_000, "larger than 64 KiB")])
def test_captions_that_are_none(raw: bytes, why: str, animals: Path) -> None:
    (animals / "cats" / "1.txt").write_bytes(raw)
    with pytest.raises(RequestError, match=why) as refused:
        labelled(animals)
    assert "1.txt" in str(refused.value)


def test_links_lead_nowhere(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(colour(1, 1, 1))
    (animals / "cats" / "1.txt").unlink()
    (animals / "cats" / "1.txt").symlink_to(tmp_path / "secret.txt")
    (animals / "cats" / "x.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (animals / "more").symlink_to(tmp_path / "elsewhere")
    rows = [d for split in ("train", "validation", "test") for d in labelled(animals).documents(split)]
    assert len(rows) == 40 and not any("secret" in d.text for d in rows)


def test_a_tar_of_somebody_else(animals: Path, tmp_path: Path) -> None:
    """The corpus's own tars, and one with classes and JSON, as WebDataset's readers know them."""
    corpus = labelled(animals)
    again = labelled(corpus.folder / "train.tar", tmp_path / "again")
    train = {d.text: d.fields["image"] for d in corpus.documents("train") if d.text}
    found = [d for split in ("train", "validation", "test") for d in again.documents(split)]
    assert {d.text for d in found if d.text} == set(train) and len(found) == len(list(corpus.documents("train")))
    with tarfile.open(tmp_path / "pairs.tar", "w") as tar:
        for i in range(30):
            parts = {"jpg.png": colour(i, 0, 0), "png": colour(i, i, 0), "json": json.dumps(
                {"caption": f"number {i}", "label": "old"}).encode(), "cls": str(i % 3).encode()}
            for kind, raw in parts.items():
                member = tarfile.TarInfo(f"../a.b/{i:03}.{kind}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    pairs = labelled(tmp_path / "pairs.tar")
    assert pairs.summary["labels"] == ["0", "1", "2"] and pairs.summary["seen"]["documents"] == 30
    rows = [(d.text, d.fields["label"]) for s in ("train", "validation", "test") for d in pairs.documents(s)]
    assert sorted(rows) == sorted((f"number {i}", str(i % 3)) for i in range(30))
    assert labelled(tmp_path / "pairs.tar").hash == pairs.hash
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name, raw in (("a.png", colour(1, 2, 3)), ("a.json", b"{")):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    with pytest.raises(RequestError, match=r"odd.tar: a.json: "):
        labelled(tmp_path / "odd.tar")


def test_scenes_are_what_their_captions_say(tmp_path: Path) -> None:
    kind = scenes.Scenes(documents=300, side=24)
    new = set(kind.unseen())
    assert len(new) == 6
    for split in ("train", "test"):
        for number in range(150):
            objects, caption = kind.scene(split, number)
            assert all((one.name in new) == (split == "test") for one in objects)
            pixels, masks = scenes.draw(objects, 24)
            for one, mask in zip(objects, masks, strict=True):
                assert mask.sum() > 6
                inside = pixels[:, mask].astype(int)
                near = abs(inside - np.array(scenes.COLOURS[one.colour])[:, None]).max(0) < 110
                assert near.mean() > 0.95
            if len(objects) == 2:
                a, b = objects
                relation = caption.removeprefix(f"a {a.name} ").removesuffix(f" a {b.name}")
                sign = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
                assert sign[relation] > 0.3
    corpus = scenes.make(tmp_path / "corpus", {"documents": 40, "side": 16})
    assert scenes.make(tmp_path / "corpus", {"documents": 40, "side": 16}).hash == corpus.hash
    with pytest.raises(RequestError, match="8 to 1024"):
        scenes.make(tmp_path / "other", {"side": 3})
