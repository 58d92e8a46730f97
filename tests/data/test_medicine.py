"""A corpus of medical sets: what each gives, that nobody is in two splits, that its notice is repeated."""
import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meristem.core.errors import RequestError
from meristem.data.medicine import WARNING, make, report

XML = ("<object>\n<name>{}</name>\n<bndbox>\n<xmin>{}</xmin>\n<ymin>{}</ymin>\n<xmax>{}</xmax>\n<ymax>{}</ymax>\n"
       "</bndbox>\n</object>")


def put(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    tar.addfile(member, io.BytesIO(raw))


def picture(kind: str, side: int = 64) -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (side, side), (200, side, 10)).save(raw, format=kind)
    return raw.getvalue()


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for name in ("medquad", "pubmedqa", "blood-cells", "nuclei-seg"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE").write_text(f"licence of {name}\n")
    rows = [{"source": "1_CancerGov_QA", "focus": f"illness {n // 2}", "question": f"What is it {n}?"}
            for n in range(60)]
    (tmp_path / "medquad" / "medquad_us_agencies.jsonl.gz").write_bytes(
        gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    trials = {str(n): {"QUESTION": f"Does it help {n}?", "final_decision": "maybe"} for n in range(30)}
    (tmp_path / "pubmedqa" / "ori_pqal.json.gz").write_bytes(gzip.compress(json.dumps(trials).encode()))
    (tmp_path / "pubmedqa" / "test_ground_truth.json").write_text(json.dumps({str(n): "maybe" for n in range(5)}))
    with tarfile.open(tmp_path / "blood-cells" / "bccd_third.tar", "w") as tar:
        for n in range(20):
            about = XML.format("RBC", 2, 2, 30, 30) + XML.format("WBC", 20, 20, 60, 60)
            put(tar, f"Annotations/{n}.xml", about.encode())
            put(tar, f"JPEGImages/{n}.jpg", picture("JPEG", 64 + n))
    with tarfile.open(tmp_path / "nuclei-seg" / "nuclei.tar.gz", "w:gz") as tar:
        for n in range(40):
            put(tar, f"images/{n}.png", picture("PNG", 20 + n))
            raw = io.BytesIO()
            Image.fromarray(np.full((20 + n, 20 + n), 3, dtype=np.uint16)).save(raw, format="PNG")
            put(tar, f"labels/{n}.png", raw.getvalue())
    return tmp_path


def test_rows_of_every_set(sets: Path) -> None:
    corpus = make(sets, sets / "out")
    rows = {split: list(corpus.documents(split)) for split in ("train", "validation", "test")}
    assert {d.fields["label"] for d in rows["train"]} == {"field", "trial", "cell", "report"}
    assert {d.fields["target"] for d in rows["train"] if d.fields["label"] == "cell"} == {"red cell", "white cell"}
    assert sum(d.fields["label"] == "trial" for d in rows["test"]) == 5
    asked = {split: {int(d.fields["input"].rstrip("?").split()[-1]) // 2 for d in some
                     if d.fields["label"] == "field"} for split, some in rows.items()}
    assert not asked["train"] & asked["test"], "an illness is asked about in one split only"
    assert corpus.summary["notice"] == WARNING and "NOT FOR CLINICAL USE" in WARNING
    nuclei = make(sets / "nuclei-seg", sets / "nuclei")
    assert nuclei.summary["notice"] == WARNING and "masks" in next(nuclei.documents("train")).fields
    with pytest.raises(RequestError, match="none of"):
        make(sets / "out", sets / "x")


def test_a_report_counts_in_words() -> None:
    assert report(Counter({"red cell": 14, "white cell": 1})) == "many red cells; one white cell; no platelets"
