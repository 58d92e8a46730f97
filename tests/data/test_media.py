"""Folders and shards of pictures, films, sounds and robots' episodes: every file is a row or a line of the ledger."""
import io
import json
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meristem.cli.main import main
from meristem.codecs import audio, video
from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.corpus import pictures, read
from meristem.corpus.labelled import labelled
from meristem.corpus.store import SPLITS, Corpus
from meristem.data import demonstrations
from meristem.data.sieve import Sieve

RNG = np.random.default_rng(0)


def curated(what: str, out: Path) -> tuple[Corpus, dict[str, dict]]:
    """The corpus of one command, and its ledger by file name; kept and dropped together are what was seen."""
    assert main(["curate", what, "--out", str(out)]) == 0
    corpus = Corpus.open(out)
    ledger = list(corpus.ledger())
    kept = [d.id for split in SPLITS for d in corpus.documents(split)]
    assert sorted(row["id"] for row in ledger if row["verdict"] == "kept") == sorted(kept)
    dropped = Counter(row["rule"] for row in ledger if row["verdict"] == "dropped")
    assert dropped == {rule: row["documents"] for rule, row in corpus.summary["dropped"].items()}
    assert corpus.summary["seen"]["documents"] == len(ledger) == len(kept) + sum(dropped.values())
    for split in SPLITS:
        tar = pictures.Tar(corpus.folder / f"{split}.tar")
        assert all(d.fields.get("image", d.fields.get("audio", "")) in tar for d in corpus.documents(split))
    return corpus, {Path(row["path"]).name: row for row in ledger}


def tone(number: int, count: int = 800) -> np.ndarray:
    return 0.5 * np.sin(np.arange(count) * (number + 1) / 20)


def test_a_folder_of_sounds_and_what_is_no_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "voices"
    (folder / "high").mkdir(parents=True)
    for n in range(12):
        (folder / "high" / f"{n}.wav").write_bytes(audio.encode(tone(n), 8000))
    (folder / "high" / "3.txt").write_text("a voice\n")
    whole = (folder / "high" / "5.wav").read_bytes()
    (folder / "high" / "copy.wav").write_bytes(whole)
    (folder / "again.wav").write_bytes(whole + b"LIST\4\0\0\0abcd")          # other bytes, the same samples
    bad = {"cut": whole[:200], "empty": b"", "text": b"no sound at all", "lying": whole[:40] + b"\xff\xff\xff\x7f" +
           whole[44:], "silent": audio.encode(np.zeros(800), 8000), "short": audio.encode(tone(1, 90), 8000),
           "rate": whole[:24] + struct.pack("<I", 7) + whole[28:], "none": audio.encode(np.zeros(0), 8000)}
    for name, raw in bad.items():
        (folder / f"{name}.wav").write_bytes(raw)
    (folder / "words.txt").write_bytes(b"\xff\xfe")
    (folder / "words.wav").write_bytes(audio.encode(tone(30), 8000))
    corpus, rows = curated(str(folder), tmp_path / "out")                      # a folder of nothing else
    told = {name: row["rule"] for name, row in rows.items() if row["verdict"] == "dropped"}
    pair = {"5.wav", "copy.wav", "again.wav"} & told.keys()
    assert len(pair) == 2 and {told.pop(name) for name in pair} == {"exact_duplicate", "same_samples"}
    assert told == {"silent.wav": "loudness", "short.wav": "seconds", **dict.fromkeys(
        ("cut.wav", "empty.wav", "text.wav", "lying.wav", "rate.wav", "none.wav", "words.wav"), "unreadable")}
    assert corpus.summary["labels"] == ["high"] and corpus.summary["splits"]["train"]["documents"] > 5
    captions = [d.text for split in SPLITS for d in corpus.documents(split) if d.text]
    assert captions == ["a voice"]
    capsys.readouterr()
    assert main(["curate", "--explain", "silent.wav", "--out", str(tmp_path / "out")]) == 0
    assert "loudness" in capsys.readouterr().out


def test_films_that_move_and_films_that_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for n in range(9):
        frames = np.zeros((4, 3, 24, 24), dtype=np.uint8)
        for k in range(4):
            frames[k, n % 3, 3 * (n // 3) + k: 3 * (n // 3) + k + 8, 2 * n % 9 + 2 * k: 2 * n % 9 + 2 * k + 9] = 255
        (folder / f"{n}.gif").write_bytes(video.encode(frames))
    whole = (folder / "4.gif").read_bytes()
    (folder / "late.gif").write_bytes(whole + b"a comment behind the end")     # other bytes, the same film
    (folder / "cut.gif").write_bytes(whole[:90])
    (folder / "still.gif").write_bytes(video.encode(frames[:1]))
    (folder / "torn.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(60))
    corpus, rows = curated(f"films:{folder}", tmp_path / "out")
    told = {name: row["rule"] for name, row in rows.items() if row["verdict"] == "dropped"}
    assert told.pop("4.gif", told.pop("late.gif", "")) == "near_duplicate"
    assert told == {"still.gif": "words", "cut.gif": "unreadable", "torn.mp4": "unreadable"}    # one frame: a picture
    assert corpus.summary["rules"]["motion"] == 0.1


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))


def noise() -> bytes:
    return encode(np.kron(RNG.integers(0, 256, (3, 8, 8), dtype=np.uint8), np.ones((1, 3, 3), dtype=np.uint8)))


def test_shards_of_pictures_with_captions(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        members = {}
        for n in range(6):
            members |= {f"{n}.png": noise(), f"{n}.txt": f"picture {shard} {n}".encode()}
        members |= {"a.png": noise(), "a.json": b'{"caption": "told in JSON"}', "b.png": noise(), "b.txt": b"\xff\xfe",
                    "c.png": noise()}
        tar_of(folder / f"{shard}.tar", members)
    whole = (folder / "2.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[:3000])
    corpus, _ = curated(f"pictures:{folder}", tmp_path / "out")
    texts = sorted(d.text for split in SPLITS for d in corpus.documents(split))
    assert texts == sorted([f"picture {s} {n}" for s in range(3) for n in range(6)] + ["told in JSON"] * 3)
    rules = {row["path"]: row["rule"] for row in corpus.ledger() if row["verdict"] == "dropped"}
    assert rules == {**{f"shards/{s}.tar/{name}": rule for s in range(3) for name, rule in (
        ("b.png", "unreadable"), ("c.png", "words"))}, "shards/cut.tar": "unreadable"}
    tar_of(folder / "0.tar", {"0.png": noise(), "0.txt": b"new"})              # what a shard holds decides
    assert labelled(folder, tmp_path / "out", sieve=Sieve()).hash != corpus.hash
    with pytest.raises(ValueError, match="lies outside"):
        pictures.bytes_of({"image": "../x.tar/0.png"}, folder)
    with pytest.raises(RequestError, match="b.txt"):
        labelled(folder, tmp_path / "strict")


def test_media_among_texts_are_told_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some words that are a text. " * 9)
    (tmp_path / "b.wav").write_bytes(audio.encode(tone(1), 8000))
    (tmp_path / "c.png").write_bytes(noise())
    (tmp_path / "d.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(60))
    found = {i.path.rpartition("/")[2]: (i.rule, i.value) for i in read.documents([tmp_path])
             if isinstance(i, read.Refusal)}
    assert found == {f"{name}": ("media", f"a {kind}: curate {kind}s:FOLDER reads it") for name, kind in (
        ("b.wav", "sound"), ("c.png", "picture"), ("d.mp4", "film"))}
    assert not pictures.is_media(tmp_path)


def test_a_damaged_episode_is_left_out_as_a_whole(tmp_path: Path) -> None:
    folder, picture = tmp_path / "bridge", io.BytesIO()
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(picture, format="JPEG")
    good = [{"episode": n, "instruction": f"put {n}", "action": RNG.normal(size=(2, 3)).tolist()} for n in range(5)]
    bad = [{**good[0], "episode": 7}, {**good[0], "instruction": " "}, {**good[0], "action": [[1, 2], [3]]},
           {**good[0], "action": [[1.0, 2.0]]}, {**good[0], "action": [[float("nan")] * 3]}, {**good[0], "episode": 6},
           [1]]
    lines = [*map(json.dumps, [*good, *bad]), '{"episode": 1, "instr']
    (folder / "episodes.jsonl").write_text("\n".join(lines))
    frames = {f"{n:02}/cam0_{step:02}.jpg": picture.getvalue() for n in range(5) for step in range(2)}
    tar_of(folder / "frames.tar", {**frames, "06/cam0_00.jpg": picture.getvalue()[:80], "06/cam0_01.jpg": b""})
    corpus, rows = curated(str(folder), tmp_path / "out")
    assert {name: row["rule"] for name, row in rows.items() if row["verdict"] == "dropped" and "#" in name} == {
        "episodes.jsonl#6": "no_frame", "episodes.jsonl#7": "no_episode", "episodes.jsonl#8": "no_action",
        "episodes.jsonl#9": "no_action", "episodes.jsonl#10": "no_action", "episodes.jsonl#11": "no_frame",
        "episodes.jsonl#12": "no_episode", "episodes.jsonl#13": "not_json"}
    assert {d.fields["input"] for split in SPLITS for d in corpus.documents(split)} == {f"put {n}" for n in range(5)}
    (folder / "episodes.jsonl").write_text("\n".join(lines[5:]))
    with pytest.raises(RequestError, match="1 whole episodes and 3 are needed.*no_frame"):
        demonstrations.make(folder, tmp_path / "none")


def test_doors_of_which_some_are_damaged(tmp_path: Path) -> None:
    arrays = {f"{key}_{n:02}": RNG.normal(size=(9, width)) for n in range(5)
              for key, width in (("observations", 4), ("actions", 2))}
    arrays["actions_03"] = arrays["actions_03"][:5]
    arrays["observations_04"][2, 1] = np.inf
    np.savez(tmp_path / "door_demos.npz", **arrays)
    corpus = demonstrations.make(tmp_path, tmp_path / "out")
    assert {Path(row["path"]).name: row["rule"] for row in corpus.ledger() if row["verdict"] == "dropped"} == {
        "door_demos.npz#3": "no_action", "door_demos.npz#4": "no_action"}
    raw = (tmp_path / "door_demos.npz").read_bytes()
    for wrong in (raw[:99], b"", b"\x93NUMPY"):
        (tmp_path / "door_demos.npz").write_bytes(wrong)
        with pytest.raises(RequestError, match="no file of arrays"):
            demonstrations.make(tmp_path, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "door_demos.npz", "w") as z:               # members that are no arrays
        for name in ("actions_00.npy", "observations_00.npy"):
            z.writestr(name, b"nothing")
    with pytest.raises(RequestError, match="0 whole episodes"):
        demonstrations.make(tmp_path, tmp_path / "x")
