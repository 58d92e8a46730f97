"""Tasks about masks: a subject that knows the truth scores 1, baselines are what they say, clicks go to the errors."""
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from meristem.core.progress import SILENT
from meristem.corpus.store import Corpus
from meristem.data.objects import make
from meristem.data.segments import Mapped
from meristem.evals.base import Item
from meristem.evals.judge import crops
from meristem.evals.run import evaluate
from meristem.evals.segments import SIDE, by_picture, ellipse, flood, pieces, pieces_of
from meristem.evals.subject import NoText, Subject
from meristem.evals.tasks.detection import TASK as DETECTION
from meristem.evals.tasks.detection import precisions
from meristem.evals.tasks.masks import METRICS, TASK, further
from meristem.nn.segment import AWAY, OBJECT, at, boxes_of, overlap


class Knows(nn.Module):
    """Answers with objects of test pictures: mask 1 the largest, 2 the smallest under the first click, 3 nothing."""

    def __init__(self, corpus: Corpus, side: int = 32):
        super().__init__()
        self.config = SimpleNamespace(image=side, channels=3, decoder_heads=1)
        data = Mapped.of(corpus, "test", side, 3)
        self.known = {data.pixels[n].tobytes(): [torch.from_numpy(data.mask(n, k)) for k in range(len(data.objects[n]))]
                      for n in range(len(data.ids))}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.masks = self.known[((images[0] + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()]
        return images

    def decode(self, seen: Any, points: Any, signs: Any, drafts: Any, drafted: Any) -> tuple[Any, Any]:
        out = torch.full((1, points.shape[1], 4, *self.masks[0].shape), -5.0)
        for n in range(points.shape[1]):
            if int(signs[0, n, 0]) == OBJECT:
                under = sorted((m for m in self.masks if at(m, points[0, n, 0])), key=lambda m: int(m.sum()))
                for mask, place in ((under[-1], 1), (under[0], 2)) if under else ():
                    out[0, n, place][mask] = 5.0
                out[0, n, 0] = out[0, n, 1]
            else:
                box = points[0, n, :2].flatten()
                best = max(self.masks, key=lambda m: -float((boxes_of(m) - box).abs().sum()))
                out[0, n, 0][best] = 5.0
        return out, torch.tensor([0.5, 0.9, 0.4, 0.1]).repeat(1, points.shape[1], 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("objects") / "corpus", {"documents": 60, "side": 32, "most": 2, "parts": 0.5})


def subject(corpus: Corpus) -> Subject:
    return Subject(Knows(corpus), NoText(), "hash", 0)


def test_a_model_that_knows_the_objects(corpus: Corpus) -> None:
    scores = {s.name: s for s in evaluate(subject(corpus), corpus, ["masks"])}
    assert set(scores) == {m.name for m in METRICS} and scores["masks_box"].n > 4
    assert scores["masks_best_of_3"].value > 0.97 and scores["masks_box"].value > 0.97
    assert 0.6 < scores["masks_1_click"].value < 1 and scores["masks_1_click"].interval.high <= 1
    for name, score in scores.items():
        assert score.baseline and 0 < score.baseline.value < max(score.value, 0.9), name
    assert scores["masks_ranked"].baseline and scores["masks_ranked"].baseline.value == pytest.approx(1 / 3)


def test_items_are_objects_and_not_their_shadows(corpus: Corpus) -> None:
    items = TASK.on(corpus).items(corpus, NoText(), 1000, 0)
    assert items and all(item.answer != "shadow" for item in items)
    assert len({item.prompt for item in items}) == len(items)
    for _, masks, places in by_picture(corpus, items, 32, 3):
        assert len(masks) == len(places) and bool(masks.flatten(1).any(1).all())


def test_each_further_click_lies_in_the_largest_error() -> None:
    truth, found = torch.zeros(2, 16, 16, dtype=torch.bool), torch.zeros(2, 16, 16, dtype=torch.bool)
    truth[0, 2:12, 2:12] = found[0, 2:12, 2:5] = True          # most of it is missed
    truth[1, 2:4, 2:4] = True
    found[1, 2:15, 2:15] = True                                # far too much
    points, signs = torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.long)
    after, said = further(points, signs, found, truth)
    assert said[:, 1].tolist() == [OBJECT, AWAY] and bool(at(truth ^ found, after[:, 1]).all())
    assert further(points, signs, truth, truth)[1][:, 1].tolist() == [OBJECT, OBJECT]


def test_connected_parts_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for share in (0.3, 0.55, 0.7):
        mask = rng.random((30, 23)) < share
        ours, (theirs, count) = pieces_of(mask), ndimage.label(mask)
        assert len(np.unique(ours[mask])) == count
        for number in range(1, count + 1):
            assert len(np.unique(ours[theirs == number])) == 1
        assert not ours[~mask].any()
    assert not pieces_of(np.zeros((4, 4), bool)).any()


def test_baselines_without_a_network() -> None:
    picture = np.full((3, 20, 20), 200, np.uint8)
    picture[:, 4:10, 4:10] = 50
    picture[:, 4:6, 14:18] = 50
    region = flood(picture, 6, 6)
    assert region.sum() == 36 and region[4:10, 4:10].all()
    assert [int(p.sum()) for p in pieces(picture)] == [36, 8]
    disc = torch.from_numpy(ellipse(torch.tensor([2.0, 2, 11, 11]), 20))
    square = torch.zeros(20, 20, dtype=torch.bool)
    square[2:12, 2:12] = True
    assert float(overlap(disc, square)) == pytest.approx(np.pi / 4, abs=0.03)
    assert SIDE == 64


def test_a_corpus_without_label_maps_has_no_items(tmp_path: Path) -> None:
    from meristem.data import scenes
    plain = scenes.make(tmp_path / "s", {"documents": 20, "side": 16})
    assert TASK.on(plain).items(plain, NoText(), 10, 0) == [] and SILENT is not None


def test_average_precision_by_hand() -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 4:, 4:] = masks[2, :2, 6:] = True
    masks[3, :4, :3] = True                                    # three quarters of the first: found again
    truth = masks[:2]
    one = (masks[[0, 3, 2, 1]], torch.tensor([0.9, 0.8, 0.7, 0.6]), truth, [0, 1])
    # right, again, wrong, right: precision 1 at the first, 2 / 4 at the second
    assert precisions([one], "masks", 0.5, 2).tolist() == [1.0, 0.5]
    assert precisions([one], "boxes", 0.75, 3).tolist() == [1.0, 0.5, 0.0]
    other = (masks[[3]], torch.tensor([0.95]), truth[:1], [2])
    got = precisions([one, other], "masks", 0.75, 3)           # surest of all, with exactly 0.75 of its object
    assert got.tolist() == pytest.approx([1.0, 3 / 5, 1.0])
    assert precisions([one, other], "masks", 0.8, 3).tolist() == pytest.approx([0.5, 0.4, 0.0])
    nothing = (masks[:0], torch.zeros(0), truth, [0, 1])
    assert precisions([nothing], "boxes", 0.5, 2).tolist() == [0.0, 0.0]


def test_kinds_are_told_apart_by_a_judge(tmp_path: Path) -> None:
    task = DETECTION.reading(tmp_path)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 4:, 4:] = masks[2, :2, 6:] = True
    items = [Item("p", f"p#{n}", name) for n, name in enumerate(("star", "heart on a star", "star"))]
    one = (masks, torch.tensor([0.9, 0.8, 0.7]), masks, [0, 1, 2])
    found = task.outcome([one], [["star", "heart", "star"]], items)
    share = [0.5, 1.0, 0.5]                                    # two stars and a heart: each kind counts the same
    assert found.values["detection_named_masks_map"] == found.weights["detection_named_boxes_ap50"] == share
    wrong = task.outcome([one], [["star", "star", "star"]], items)
    assert wrong.values["detection_named_masks_ap50"] == pytest.approx([0.5, 0.0, 0.5 * 2 / 3])
    assert wrong.values["detection_masks_ap50"] == [1.0] * 3 and len(task.metrics) == 8 and len(DETECTION.metrics) == 4


def test_a_crop_is_the_square_around_a_mask() -> None:
    pixels = np.zeros((1, 20, 20), dtype=np.uint8)
    pixels[0, 4:14, 6:16] = 200
    shown = crops(pixels, torch.from_numpy(pixels > 0), 26)[0, 0]              # 13 pixels a side, doubled
    assert shown.shape == (26, 26) and (shown[4:22, 4:22] == 200).all() and shown[0].max() == 0
    edge = np.zeros((1, 1, 20, 20), dtype=bool)[0]
    edge[0, :2, :2] = True
    assert crops(pixels + 7, torch.from_numpy(edge), 4)[0].max() == 7


def test_detection_of_a_model_that_knows_the_objects(corpus: Corpus) -> None:
    items = DETECTION.on(corpus).items(corpus, NoText(), 6, 0)
    pictures = {item.group for item in items}
    everything = DETECTION.on(corpus).items(corpus, NoText(), 1000, 0)
    assert {i.prompt for i in everything if i.group in pictures} == {i.prompt for i in items} and len(items) <= 6
    scores = {s.name: s for s in evaluate(subject(corpus), corpus, ["detection"], limit=6)}
    assert scores["detection_masks_ap50"].value > 0.4 > 0.0
    assert scores["detection_boxes_map"].value <= scores["detection_boxes_ap50"].value
    assert all(score.baseline for score in scores.values())
