"""Emoji and their keywords become questions: as many fit as do not, a picture is in one split."""
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from meristem.core.errors import RequestError
from meristem.data.emoji import make


def test_questions_about_pictures(tmp_path: Path) -> None:
    rows = [{"file": f"{n}.png", "group": "Food & Drink" if n % 2 else "Objects", "keywords":
             ["food" if n % 2 else "tool", f"only{n}", "two words", "round" if n % 3 else "flat"]} for n in range(60)]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(tmp_path / "noto72.tar.gz", "w:gz") as tar:
        for n in range(60):
            raw = io.BytesIO()
            picture = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
            picture.paste((4 * n, 0, 0, 255), (4, 4, 8, 8))
            picture.save(raw, format="PNG")
            member = tarfile.TarInfo(f"noto/{n}.png")
            member.size = len(raw.getvalue())
            tar.addfile(member, io.BytesIO(raw.getvalue()))
    corpus = make(tmp_path, tmp_path / "out", each=1)
    asked = {split: list(corpus.documents(split)) for split in ("train", "validation", "test")}
    every = [d.fields for some in asked.values() for d in some]
    answers = Counter(f["target"] for f in every if f["label"] == "fits")
    assert answers == {"yes": 60, "no": 60} and Counter(f["target"] for f in every if f["label"] == "kind") == {
        "food": 30, "objects": 30}
    assert len({d.fields["image"] for d in asked["train"]} | {d.fields["image"] for d in asked["test"]}) == sum(
        len({d.fields["image"] for d in asked[split]}) for split in ("train", "test")), "a picture is in one split"
    written = [json.loads(line) for file in (tmp_path / "out.rows").glob("*.jsonl")
               for line in file.read_text().splitlines()]
    for fields in written:
        n = int(fields["image"].split("-")[1].removesuffix(".png"))
        if fields["label"] == "fits":
            word = fields["input"].split()[1]
            assert word in ("food", "tool", "round", "flat")
            assert (word in rows[n]["keywords"]) == (fields["target"] == "yes")
    with Image.open(next((tmp_path / "out.rows").glob("*.png"))) as picture:
        assert picture.getpixel((0, 0)) == (255, 255, 255) != picture.getpixel((5, 5)), "what is transparent is white"
    with pytest.raises(RequestError, match="has no captions.jsonl"):
        make(tmp_path / "out.rows", tmp_path / "x")
