"""Procedural objects: truth that agrees with the picture, shadows that rays agree with, edits that take them along."""
from pathlib import Path

import numpy as np

from meristem.codecs.image import regions
from meristem.corpus.pictures import Tar
from meristem.data.objects import (
    SEEN,
    SHADOW,
    UNSEEN,
    Look,
    Objects,
    Scene,
    Thing,
    covers,
    make,
    moved,
    render,
    row_of,
    shadow_found,
    without,
)

WHITE, GREY = (Look((v, v, v), (v, v, v), "plain", 3, 0, 0) for v in (220, 120))
SQUARE = Thing("square", 0.5, 0.5, 0.2, 0.0, 0.1, GREY)


def scene(*things: Thing, light: tuple[float, float] = (1.0, 0.0)) -> Scene:
    return Scene(things, WHITE, light, 0)


def test_a_shadow_falls_away_from_the_light_as_far_as_the_thing_is_high() -> None:
    made = render(scene(SQUARE), 100)
    thing, dark = made.things[0], made.dark
    assert not (thing & dark).any()
    rows, columns = np.nonzero(dark)
    assert columns.max() < np.nonzero(thing)[1].min() and set(rows) == set(np.nonzero(thing)[0])
    assert abs(np.ptp(columns) + 1 - 10) <= 1                   # height 0.1 of 100 pixels
    assert made.picture[:, dark].mean() < 0.7 * made.picture[:, ~dark & ~thing].mean()


def test_a_tall_thing_darkens_a_lower_one_and_never_the_other_way() -> None:
    low, tall = (Thing("square", x, 0.5, 0.15, 0.0, h, GREY) for x, h in ((0.32, 0.02), (0.6, 0.2)))
    made = render(scene(low, tall, light=(1.0, 0.0)), 100)
    alone = render(scene(low, light=(1.0, 0.0)), 100)
    assert made.picture[:, made.things[0]].mean() < 0.8 * alone.picture[:, alone.things[0]].mean()
    back = render(scene(low, tall, light=(-1.0, 0.0)), 100)
    assert abs(back.picture[:, back.things[1]].mean() - made.picture[:, made.things[1]].mean()) < 2
    assert made.shadows[1].any() and not (made.shadows[1] & made.things[0]).any()


def test_an_edit_moves_the_shadow_and_an_edit_that_forgets_it_is_found() -> None:
    kind = Objects(side=64)
    scores = []
    for number in range(6):
        before = kind.scene("train", number)
        after = moved(before, 0, 0.75, 0.7)
        truth = render(after, 64)
        found = shadow_found(truth.picture, after)
        scores.append((found & truth.dark).sum() / (found | truth.dark).sum())
        forgotten = shadow_found(render(after, 64, shadows=False).picture, after)
        assert not (forgotten & truth.dark).any()
    assert np.mean(scores) > 0.85
    assert not render(without(scene(SQUARE), 0), 64).dark.any()


def test_the_rows_say_what_the_picture_shows() -> None:
    kind = Objects(side=64, parts=1.0)
    for split, shapes in (("train", SEEN), ("test", UNSEEN)):
        for number in range(4):
            one = kind.scene(split, number)
            assert one == kind.scene(split, number) and {t.shape for t in one.things} <= set(shapes)
            made = render(one, 64)
            labels, objects = row_of(made, one)
            masks = {SHADOW: made.shadows, **{t.shape: made.things for t in one.things}}
            for entry in objects:
                mask = np.isin(labels[0], entry["regions"])
                name = entry["name"].partition(" on ")[0]
                among = list(masks[name]) if " on " not in entry["name"] else list(made.parts.values())
                assert any((mask == other).all() for other in among), entry
            assert labels[0][~made.things.any(0) & ~made.dark].max() == 0


def test_every_shape_covers_some_of_its_square_and_no_two_are_alike() -> None:
    at = np.linspace(-1.2, 1.2, 61)
    x, y = np.meshgrid(at, at)
    areas = {shape: covers(shape, x, y) for shape in (*SEEN, *UNSEEN)}
    assert all(0.08 < a.mean() < 0.75 for a in areas.values()), {k: a.mean() for k, a in areas.items()}
    names = list(areas)
    assert not any((areas[a] == areas[b]).all() for n, a in enumerate(names) for b in names[n + 1:])


def test_the_corpus_holds_label_maps(tmp_path: Path) -> None:
    corpus = make(tmp_path / "c", {"documents": 12, "side": 32})
    document = next(corpus.documents("test"))
    tar = Tar(corpus.folder / "test.tar")
    labels = regions(tar[document.fields["masks"]])
    numbers = {number for one in document.fields["objects"] for number in one["regions"]}
    assert labels.shape == (32, 32) and numbers <= set(np.unique(labels)) - {0}
    again = make(tmp_path / "d", {"documents": 12, "side": 32})
    assert again.hash == corpus.hash
