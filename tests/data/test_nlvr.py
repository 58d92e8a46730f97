"""NLVR's files become rows: whole pictures on a square ground, permutations of one in one split."""
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from meristem.core.errors import RequestError
from meristem.data.nlvr import SIDE, make


def test_sentences_about_pictures(tmp_path: Path) -> None:
    rows = [{"identifier": f"{n}-0", "sentence": f"There is one {n}.", "label": "true"} for n in range(40)]
    (tmp_path / "dev.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        for n in range(40):
            for which in range(2):
                raw = io.BytesIO()
                Image.new("RGB", (400, 100), (n, which, 0)).save(raw, format="PNG")
                member = tarfile.TarInfo(f"dev-{n}-0-{which}.png")
                member.size = len(raw.getvalue())
                tar.addfile(member, io.BytesIO(raw.getvalue()))
    corpus = make(tmp_path, tmp_path / "out")
    said = {split: [d.fields["input"] for d in corpus.documents(split)] for split in ("train", "validation", "test")}
    assert sum(map(len, said.values())) == 80 and not set(said["train"]) & set(said["test"])
    with Image.open(next((tmp_path / "out.rows").glob("*.png"))) as picture:
        assert picture.size == (SIDE, SIDE) and picture.getpixel((0, 0)) == (255, 255, 255)
        assert picture.getpixel((SIDE - 1, SIDE // 2)) != (255, 255, 255), "the outer boxes are there"
    with pytest.raises(RequestError, match="has no dev.json.gz"):
        make(tmp_path / "out.rows", tmp_path / "x")
