"""Pictures before and after an edit: what the sentence does not name is the same; a model is shown the first."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import edits, scenes
from meristem.data.edits import Edits, Source
from meristem.data.scenes import COLOURS, SHAPES
from meristem.generate.pictures import Wish, paint
from meristem.objectives.diffusion import Diffusion
from tests.models import parity

UNET: dict[str, Any] = {"inputs": 6, "outputs": 3, "image": 8, "channels": (16, 32), "blocks": 1,
                        "attention": (False, True), "groups": 8, "heads": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return edits.make(tmp_path_factory.mktemp("edits") / "corpus", {"documents": 40, "side": 16})


def test_an_edit_changes_what_it_says_and_nothing_else() -> None:
    kind, seen = Edits(documents=10, side=16), set()
    for number in range(40):
        before, after, said, now = kind.edit("train", number)
        changed = (before != after).any(0)
        if "night" in said or "day" in said:
            seen.add("light")
            assert after[:, 0, 0].mean() < 40 if "night" in said else after[:, 0, 0].mean() > 200
            same = ~changed
            assert same.any() and not changed.all()            # the shape itself keeps its colour
        else:
            seen.add("colour" if "make" in said else "shape")
            assert now.colour in said if "make" in said else said.endswith(now.shape)
            rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
            assert max(len(rows), len(columns)) <= 2 * now.radius * 1.1 * 16 + 2   # within the shape's square
    assert seen == {"colour", "shape", "light"}


def test_what_comes_out_of_the_test_split_comes_out_nowhere_else(corpus: Corpus) -> None:
    out = {split: {d.fields["label"] for d in corpus.documents(split)} for split in ("train", "test")}
    assert out["test"] and not out["train"] & out["test"]
    assert all(name.split()[0] in COLOURS and name.split()[1] in SHAPES for name in out["train"] | out["test"])


def test_a_step_has_both_pictures(corpus: Corpus) -> None:
    codec = bpe.fit([d.text for d in corpus.documents("train")], 300)
    source = Source.of(corpus, codec, "train", 16, 3, 16, (8, 0, 0))
    batch = source(3)[0]
    assert batch["before"].shape == batch["images"].shape == (8, 3, 16, 16) and batch["before"].dtype == torch.uint8
    changed = (batch["before"] != batch["images"]).flatten(1).float().mean(1)
    assert bool((changed > 0).all())
    assert [len(rows["before"]) for rows in source.held_out(3, 4)] == [3, 1]


def test_rows_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    plain = scenes.make(tmp_path / "scenes", {"documents": 20, "side": 16})
    with pytest.raises(RequestError, match="has no pairs"):
        Source.of(plain, bpe.fit(["a"], 300), "train", 16, 3, 16, (8, 0, 0))


def test_the_model_is_shown_the_picture_before() -> None:
    torch.manual_seed(0)
    objective = Diffusion(parity.ours("unet", **UNET)[1], edits=True)
    assert objective.picture == (8, 3)
    images = torch.randint(0, 256, (2, 2, 3, 8, 8)).to(torch.uint8)
    batch = objective.prepare({"images": images[0], "before": images[1]})
    given = objective.inputs(batch)["images"]
    assert given.shape == (2, 6, 8, 8) and torch.equal(given[:, 3:], images[1].float() / 127.5 - 1)
    with pytest.raises(RequestError, match="what is edited"):
        objective.prepare({"images": images[0]})
    with pytest.raises(RequestError, match="enlarges or edits"):
        Diffusion(parity.ours("unet", **UNET)[1])
    painter = objective.painter()
    assert painter.hows == {"edit"} and (painter.channels, painter.side) == (3, 8)
    old, other = (2 * torch.rand(2, 3, 8, 8) - 1).unbind()
    one, two = (paint(painter, Wish(("",), steps=2, how="edit", image=image)) for image in (old, other))
    assert one.shape == (1, 3, 8, 8) and not torch.equal(one, two)             # it looks at the picture
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5] = True
    kept = paint(painter, Wish(("",), steps=2, how="edit", image=old, mask=mask))[0]
    assert torch.equal(kept[:, ~mask], old[:, ~mask])
