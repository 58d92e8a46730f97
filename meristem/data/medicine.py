"""Rows for a generalist in medicine: questions, cells to name, smears to report on, nuclei to segment.

    meristem curate medicine:FOLDER --out runs/medicine        # with medquad/, pubmedqa/ and blood-cells/ in it
    meristem curate medicine:FOLDER/nuclei-seg --out runs/nuclei               # label maps, for recipe sam

NOT FOR CLINICAL USE: the corpus says so (`notice`), and so do the card and the report of whatever is trained on it.

| label | a row | from |
| --- | --- | --- |
| field | a question of a patient; which field of medicine it belongs to | MedQuAD (Ben Abacha & Demner-Fushman 2019) |
| trial | a question of a researcher; yes, no or maybe | PubMedQA (Jin et al. 2019), its own test list |
| cell | a photograph of one cell; what it is | BCCD, cut from the smears |
| report | a smear; how many cells of each kind it shows, in words | BCCD |

Moor et al. 2023, https://www.nature.com/articles/s41586-023-05881-4, describe such models; this one is a toy of them.
"""
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.store import NOTICE, Corpus

WARNING = "NOT FOR CLINICAL USE. A toy for research: no answer, class, mask or report of it may guide any treatment."
FIELDS = {"1_CancerGov_QA": "cancer", "5_NIDDK_QA": "kidneys and digestion", "6_NINDS_QA": "nerves",
          "7_SeniorHealth_QA": "old age", "8_NHLBI_QA_XML": "heart and lungs", "9_CDC_QA": "infections"}
CELLS = {"RBC": "red cell", "WBC": "white cell", "Platelets": "platelet"}
BOX = re.compile(r"<name>(\w+)</name>.*?<xmin>(\d+)</xmin>\s*<ymin>(\d+)</ymin>\s*<xmax>(\d+)</xmax>\s*"
                 r"<ymax>(\d+)</ymax>", re.DOTALL)
MEDQUAD, PUBMED, SMEARS, NUCLEI = ("medquad/medquad_us_agencies.jsonl.gz", "pubmedqa/ori_pqal.json.gz",
                                   "blood-cells/bccd_third.tar", "nuclei.tar.gz")
CELL = "which cell?"
SIDE = 64
LARGEST = 64 << 20


def make(source: Path, out: Path, seed: int = 0, each: int = 2500) -> Corpus:
    """The corpus of a folder: the nuclei of one, or the questions, cells and reports of another.

    At most `each` rows of a label are trained on. RequestError when neither is there.
    """
    if (source / NUCLEI).is_file():
        return made(out, "medicine", _terms(source), lambda split, folder: _warned(folder, _nuclei(source, split,
                                                                                                   folder, seed)))
    parts = [part for part in (MEDQUAD, PUBMED, SMEARS) if (source / part).is_file()]
    if not parts:
        raise RequestError(f"{source} has no {NUCLEI}, and none of {MEDQUAD}, {PUBMED} and {SMEARS}")

    def rows(split: str, folder: Path) -> Iterator[Row]:
        makers = {MEDQUAD: _fields, PUBMED: _trials, SMEARS: _smears}
        for part in parts:
            seen: Counter[str] = Counter()
            for row in makers[part](source / part, split, folder, seed):
                seen[row["label"]] += 1
                if seen[row["label"]] <= (each if split == "train" else each // 10):
                    yield row

    return made(out, "medicine", "; ".join(_terms((source / part).parent) for part in parts) + "\n",
                lambda split, folder: _warned(folder, rows(split, folder)))


def _warned(folder: Path, rows: Iterator[Row]) -> Iterator[Row]:
    (folder / NOTICE).write_text(WARNING + "\n", encoding="utf-8")
    return rows


def _terms(folder: Path) -> str:
    """The licence file's first line."""
    path = folder / "LICENSE"
    return path.read_text(encoding="utf-8").strip().split("\n")[0] if path.is_file() else f"{folder.name}: unknown"


def _split(seed: int, key: str) -> str:
    place = seed_of(seed, "medicine", key) % 10
    return "test" if place == 0 else "validation" if place == 1 else "train"


def _fields(path: Path, split: str, folder: Path, seed: int) -> Iterator[Row]:
    """Questions by field; those about one illness are in one split."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["source"] in FIELDS and _split(seed, row["focus"]) == split:
                yield {"input": f"which field? {row['question']}"[:160], "target": FIELDS[row["source"]],
                       "label": "field"}


def _trials(path: Path, split: str, folder: Path, seed: int) -> Iterator[Row]:
    """PubMedQA's questions, without the abstracts; the test split is its own list."""
    tree = json.loads(gzip.decompress(path.read_bytes()))
    test = set(read_json(path.parent / "test_ground_truth.json"))
    for key, row in tree.items():
        other = "test" if key in test else "validation" if _split(seed, key) == "validation" else "train"
        if other == split:
            yield {"input": f"yes, no or maybe? {row['QUESTION']}"[:200], "target": row["final_decision"],
                   "label": "trial"}


def _smears(path: Path, split: str, folder: Path, seed: int) -> Iterator[Row]:
    """Single cells cut from smears, and whole smears with a report; those of one smear are in one split."""
    from PIL import Image
    with tarfile.open(path, "r:") as tar:
        members = {Path(m.name).name: m for m in tar if m.isreg() and m.size <= LARGEST}
        for name in sorted(n for n in members if n.endswith(".xml") and _split(seed, n) == split):
            about, photo = (tar.extractfile(members[name]), tar.extractfile(members[f"{Path(name).stem}.jpg"]))
            assert about is not None and photo is not None
            found = BOX.findall(about.read().decode("utf-8"))
            boxes = [(CELLS[one[0]], int(one[1]), int(one[2]), int(one[3]), int(one[4])) for one in found
                     if one[0] in CELLS]
            with Image.open(io.BytesIO(photo.read()), formats=("JPEG",)) as opened:
                picture = opened.convert("RGB")
            stem = f"{split}-{Path(name).stem}"
            (folder / f"{stem}.png").write_bytes(_square(picture.resize((SIDE, SIDE))))
            yield {"image": f"{stem}.png", "input": "report", "target": report(Counter(b[0] for b in boxes)),
                   "label": "report"}
            rng = np.random.default_rng(seed_of(seed, "cells", name))
            red = [b for b in boxes if b[0] == "red cell"]
            some = [b for b in boxes if b[0] != "red cell"] + [red[i] for i in rng.permutation(len(red))[:2]]
            for number, (kind, left, top, right, bottom) in enumerate(some):
                if right - left < 8 or bottom - top < 8:
                    continue
                half = max(right - left, bottom - top) * 0.6
                x, y = (left + right) / 2, (top + bottom) / 2
                cut = picture.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
                (folder / f"{stem}-{number}.png").write_bytes(_square(cut.resize((SIDE, SIDE))))
                yield {"image": f"{stem}-{number}.png", "input": CELL, "target": kind, "label": "cell"}


def report(count: Counter[str]) -> str:
    """How many cells of each kind a smear shows, in words."""
    def words(number: int) -> str:
        return ("no", "one", "two")[number] if number < 3 else "some" if number < 12 else "many"
    return "; ".join(f"{words(count[kind])} {kind}{'s' * (count[kind] != 1)}" for kind in CELLS.values())


def _nuclei(source: Path, split: str, folder: Path, seed: int) -> Iterator[Row]:
    """Micrographs with a label map each."""
    with tarfile.open(source / NUCLEI, "r:gz") as tar:
        files = {m.name: m for m in tar if m.isreg() and m.size <= LARGEST}
        for name in sorted(n for n in files if n.startswith("images/") and _split(seed, n) == split):
            stem = Path(name).stem
            for inside, outside in ((name, f"{stem}.png"), (f"labels/{stem}.png", f"{stem}.masks.png")):
                raw = tar.extractfile(files[inside])
                assert raw is not None
                (folder / outside).write_bytes(raw.read())
            yield {"image": f"{stem}.png", "masks": f"{stem}.masks.png", "text": "nuclei"}


def _square(picture) -> bytes:                                                      # noqa: ANN001 - Pillow is lazy
    return encode(np.asarray(picture).transpose(2, 0, 1))
