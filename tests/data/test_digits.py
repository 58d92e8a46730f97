"""Real digits as pictures: which digit, whose split, and strings that training never shows."""
import builtins
import sys
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.image import decode
from meristem.core.errors import RequestError
from meristem.corpus.pictures import Tar
from meristem.corpus.store import SPLITS, Corpus
from meristem.data import digits


def shown(corpus: Corpus, split: str) -> list[tuple[np.ndarray, str, str]]:
    """(pixels, label, caption) of a split."""
    tar = Tar(corpus.folder / f"{split}.tar")
    return [(decode(tar[d.fields["image"]], channels=1), d.fields["label"], d.text) for d in corpus.documents(split)]


def test_every_digit_once_under_its_name(tmp_path: Path) -> None:
    corpus = digits.make(tmp_path / "digits", {})
    rows = {split: shown(corpus, split) for split in SPLITS}
    assert [len(rows[split]) for split in SPLITS] == [1438, 180, 179]
    from sklearn.datasets import load_digits  # 2 s of imports, that only the process of this file pays
    found = load_digits()
    known = {np.round(image * 255 / 16).astype(np.uint8).tobytes(): str(digit)
             for image, digit in zip(found.images, found.target, strict=True)}
    assert {pixels.tobytes(): label for some in rows.values() for pixels, label, _ in some} == known
    assert all(text == f"the digit {digits.NAMES[int(label)]}" for _, label, text in rows["test"])
    assert digits.make(tmp_path / "digits", {}).hash == corpus.hash


def test_strings_of_the_test_split_are_new_in_number_and_in_hand(tmp_path: Path) -> None:
    corpus = digits.make(tmp_path / "strings", {"places": 3, "documents": 200, "seed": 1})
    rows = {split: shown(corpus, split) for split in SPLITS}
    assert [len(rows[split]) for split in SPLITS] == [200, 20, 20]
    numbers = {split: {label for _, label, _ in some} for split, some in rows.items()}
    assert not numbers["test"] & numbers["train"] and not numbers["test"] & numbers["validation"]
    strokes = {split: set() for split in SPLITS}
    for split, some in rows.items():
        for pixels, label, text in some:
            assert pixels.shape == (1, 24, 24) and len(label) == 3 and text == f"the number {label}"
            top = np.flatnonzero(pixels[0].any(1))[0]
            assert not pixels[0, top + 8:].any()
            strokes[split] |= {pixels[0, :, 8 * i:8 * i + 8].tobytes().strip(b"\0") for i in range(3)}
    assert not strokes["test"] & strokes["train"]


def test_what_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="1 to 4 places"):
        digits.make(tmp_path / "x", {"places": 9})
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)
    monkeypatch.delitem(sys.modules, "sklearn.datasets")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match="pip install scikit-learn"):
        digits.make(tmp_path / "y", {})
