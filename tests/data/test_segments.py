"""Pictures with masks as batches: the right masks beside the right pictures, turned alike, a function of the step."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meristem.codecs.image import regions
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.data.segments import ASKED, LEAST, Mapped, Segments, turned


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twenty pictures whose brightness is 10 a thing: what lies where can be read from the picture itself."""
    folder = tmp_path_factory.mktemp("maps") / "rows"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        labels = np.zeros((24, 24), np.uint16)
        for number in range(1, 4):
            y, x = rng.integers(0, 16, 2)
            labels[y:y + 6, x:x + 8] = number + (300 if n % 2 else 0)
        shade = 10 * (labels % 300)
        shade[0, 0] = n                                        # no two pictures are copies
        Image.fromarray(np.repeat(shade[..., None], 3, 2).astype(np.uint8)).save(folder / f"{n}.png")
        Image.fromarray(labels).save(folder / f"{n}.masks.png")
    return labelled(folder)


def test_masks_lie_where_the_picture_says_however_it_is_turned(corpus: Corpus) -> None:
    source = Segments.of(corpus, "train", 24, 3, (4, 5, 0))
    seen = set()
    for step in range(4):
        batch = source(step)[0]
        assert batch["masks"].shape == (4, ASKED, 24, 24) and batch["masks"].dtype == torch.bool
        for image, masks in zip(batch["images"], batch["masks"], strict=True):
            for mask in masks:
                values = set(image[0][mask].tolist()) - set(range(9))
                assert len(values) == 1 and int(mask.sum()) >= LEAST
                seen |= values
    assert seen == {10, 20, 30}
    again, other = source(2)[0], source(3)[0]
    assert torch.equal(again["masks"], source(2)[0]["masks"]) and not torch.equal(again["images"], other["images"])


def test_micro_batches_are_the_batch(corpus: Corpus) -> None:
    whole = Segments.of(corpus, "train", 24, 3, (4, 5, 0))(1)[0]
    parts = Segments.of(corpus, "train", 24, 3, (4, 5, 2))(1)
    assert torch.equal(whole["masks"], torch.cat([part["masks"] for part in parts]))


def test_turns_are_the_eight_of_the_square() -> None:
    x = np.arange(9).reshape(3, 3)
    assert len({turned(x, n).tobytes() for n in range(8)}) == 8
    assert (turned(x, 0) == x).all()


def test_held_out_pictures_stand_upright(corpus: Corpus) -> None:
    source = Segments.of(corpus, "validation", 24, 3, (4, 5, 0))
    (batch,) = source.held_out(64, 100)
    assert np.array_equal(batch["images"][0].numpy(), source.data.pixels[source.rows[0]])


def test_objects_are_unions_of_regions_at_any_side(tmp_path: Path) -> None:
    labels = np.zeros((32, 48), np.uint8)
    labels[8:24, 12:24], labels[8:24, 24:36] = 1, 2            # the middle square begins at column 8
    rows = []
    for n in range(30):
        Image.fromarray(np.full((32, 48, 3), 5 + n, np.uint8)).save(tmp_path / f"{n}.png")
        Image.fromarray(labels).save(tmp_path / f"{n}.masks.png")
        rows.append({"image": f"{n}.png", "masks": f"{n}.masks.png",
                     "objects": [{"name": "both", "regions": [1, 2]}, {"name": "left", "regions": [1]}]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Mapped.of(labelled(tmp_path / "rows.jsonl"), "test", 16, 3)
    assert data.objects[0] == [("both", [1, 2]), ("left", [1])]
    assert data.mask(0, 0)[4:12, 2:14].all() and data.mask(0, 0).sum() == 8 * 12
    assert data.mask(0, 1).sum() == 8 * 6


@pytest.mark.parametrize(("row", "line"), [
    ({"objects": [{"name": "a", "regions": [1]}]}, "no label map"),
    ({"masks": "0.png", "objects": [{"name": "a"}]}, "objects is a list"),
    ({"masks": "0.png", "objects": [{"name": "a", "box": [5, 1, 2, 3]}]}, "objects is a list"),
    ({"masks": "../0.png"}, "lies outside"),
    ({"masks": "nowhere.png"}, "cannot be read"),
])
def test_rows_that_cannot_be(row: dict, line: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "0.png", **row}))
    with pytest.raises(RequestError, match=line):
        labelled(tmp_path / "rows.jsonl")


def test_a_colour_picture_is_no_label_map() -> None:
    import io
    raw = io.BytesIO()
    Image.new("RGB", (8, 8)).save(raw, "PNG")
    with pytest.raises(RequestError, match="not a label map"):
        regions(raw.getvalue())
    raw = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200).save(raw, "PNG")
    assert regions(raw.getvalue()).max() == 51000 and regions(raw.getvalue(), 8).shape == (8, 8)
