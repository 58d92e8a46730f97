"""Digits that are drawn or read from files in MNIST's format: what they show, their splits, and damaged files."""
import gzip
from pathlib import Path

import numpy as np
import pytest

from meristem.core.errors import RequestError
from meristem.data import strokes
from meristem.evals.pictures import Seen


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write(folder: Path, stem: str, count: int, packed: bool = False) -> np.ndarray:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    folder.mkdir(exist_ok=True)
    for name, array in ((f"{stem}images-idx3-ubyte", images),
                        (f"{stem}labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images


def test_a_drawn_digit_is_a_function_of_its_seed() -> None:
    for digit in strokes.PLANS:
        one, two, other = (strokes.draw(digit, 28, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(one, two) and not np.array_equal(one, other)
        assert one.max() == 255 and 0.03 < (one > 127).mean() < 0.5, digit
        assert (one[0] > 127).sum() + (one[-1] > 127).sum() < 15, "it lies inside"


def test_drawn_digits_look_alike_within_a_class(tmp_path: Path) -> None:
    corpus = strokes.make(tmp_path / "drawn", {"documents": 200, "side": 16})
    train, test = (Seen.of(corpus, split, 16, 1) for split in ("train", "test"))
    assert len(train.ids) == 200 and len(test.ids) == 20 and set(train.labels) <= set("0123456789")
    assert {c.split()[-1] for c in train.captions} <= {"zero", "one", "two", "three", "four", "five", "six", "seven",
                                                       "eight", "nine"}
    x, y = (s.pixels.reshape(len(s.pixels), -1) / 255 for s in (train, test))
    nearest = ((y[:, None] - x[None]) ** 2).sum(-1).argmin(1)
    right = np.mean([train.labels[i] == label for i, label in zip(nearest, test.labels, strict=True)])
    assert right > 0.4, "a tenth by chance"


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_keep_their_splits(tmp_path: Path, packed: bool) -> None:
    write(tmp_path / "in", "train-", 60, packed)
    test = write(tmp_path / "in", "t10k-", 12, packed)
    corpus = strokes.make(tmp_path / "real", {"folder": str(tmp_path / "in"), "documents": 40})
    seen = Seen.of(corpus, "test", 28, 1)
    assert len(seen.ids) == 12 and {x.tobytes() for x in seen.pixels} == {x[None].tobytes() for x in test}
    assert sum(corpus.summary["splits"][s]["documents"] for s in ("train", "validation")) == 40
    for pixels, label in zip(seen.pixels, seen.labels, strict=True):
        assert np.array_equal(test[int(label)], pixels[0]) or np.array_equal(test[int(label) + 10], pixels[0])


def test_one_file_is_split_by_hash(tmp_path: Path) -> None:
    write(tmp_path / "in", "", 80)
    corpus = strokes.make(tmp_path / "real", {"folder": str(tmp_path / "in"), "documents": 0})
    assert sum(s["documents"] for s in corpus.summary["splits"].values()) == 80
    assert corpus.summary["splits"]["test"]["documents"] > 0


def test_files_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    with pytest.raises(RequestError, match="has no train-images"):
        strokes.make(tmp_path / "a", {"folder": str(folder)})
    write(folder, "train-", 20)
    images = folder / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(RequestError, match="no IDX file of bytes with 3 axes"):
        strokes.make(tmp_path / "b", {"folder": str(folder)})
    write(folder, "train-", 20)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, dtype=np.uint8)))
    with pytest.raises(RequestError, match="20 pictures and 19 labels"):
        strokes.make(tmp_path / "c", {"folder": str(folder)})
    images.rename(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(RequestError, match="cannot be read"):
        strokes.make(tmp_path / "d", {"folder": str(folder)})
    with pytest.raises(RequestError, match="toy:strokes"):
        strokes.Strokes(side=4)
