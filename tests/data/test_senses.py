"""Eight tasks of four senses: each answer is right by another reckoning; a shadow follows what a sentence moves."""
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem.codecs import action
from meristem.core.errors import RequestError
from meristem.data.conversations import Reader
from meristem.data.interleaved import Interleaved, Writer
from meristem.data.objects import render, shadow_found
from meristem.data.senses import NOTES, STEPS, TASKS, VOICES, Senses, make, shown, sound
from meristem.data.shadows import FAR, KINDS, WAYS, Shadows
from meristem.data.shadows import make as make_shadows


def rows(count: int) -> list:
    return [Senses().row("train", number) for number in range(count)]


def test_letters_and_numbers_are_as_the_answer_says() -> None:
    for picture, row in rows(160):
        if row["label"] in ("sort", "reverse"):
            given = row["input"].split()[1:]
            assert picture is None and row["target"].split() == (
                sorted(given) if row["label"] == "sort" else given[::-1])
        elif row["label"] in ("trend", "jump"):
            numbers = np.array(row["state"])
            assert picture is None and abs(numbers).max() <= 1
            if row["label"] == "jump":                         # the mean changes most where the step is
                gaps = [abs(numbers[:n].mean() - numbers[n:].mean()) for n in range(2, 15)]
                assert STEPS[(int(np.argmax(gaps))) // 4 if int(np.argmax(gaps)) < 12 else 2] == row["target"]
            elif row["target"] in ("rising", "falling"):
                assert (numbers[8:].mean() > numbers[:8].mean()) == (row["target"] == "rising")


def test_pictures_and_sounds_tell_the_answers_apart() -> None:
    dark = {"one": [], "four": []}
    for picture, row in rows(400):
        if row["label"] == "count" and row["target"] in dark:
            corners = [(picture[:, y:y + 16, x:x + 16] != picture[:, :1, :1]).any() for y in (0, 16) for x in (0, 16)]
            dark[row["target"]].append(sum(corners))
    assert np.mean(dark["four"]) == 4 > np.mean(dark["one"])
    rng, lowest = np.random.default_rng(0), []
    for pitch in NOTES.values():                               # the loudest band of a pure tone rises with its pitch
        heard = shown(sound(rng, pitch, VOICES["flute"], 32))
        assert heard.shape == (3, 32, 32)
        lowest.append(31 - int(heard[0].astype(float).mean(1).argmax()))
    assert lowest == sorted(lowest) and len(set(lowest)) >= 4
    bell, flute = (shown(sound(np.random.default_rng(1), 600.0, VOICES[name], 32))[0] for name in ("bell", "flute"))
    assert bell[:12].mean() > flute[:12].mean()                # its fourth overtone


def test_a_batch_has_all_senses(tmp_path: Path) -> None:
    corpus = make(tmp_path / "senses", {"documents": 80})
    assert corpus.summary["labels"] == sorted(TASKS)
    codec = action.fit([d.text for d in corpus.documents("train")], 640)
    source = Interleaved.of(corpus, Writer(Reader(codec), 1, 16), "train", (32, 3), 40, (16, 0, 0))
    assert source.skipped == 0
    batch = source(0)[0]
    seen = (batch["tokens"] == 1).sum(1)
    assert set(seen.tolist()) == {0, 16} and batch["images"].shape[0] == 16
    black = (batch["images"] == 0).flatten(1).all(1)
    assert torch.equal(black, seen == 0) and bool((batch["weight"].sum(1) >= 2).all())
    with pytest.raises(RequestError, match="side of 16 to 128"):
        make(tmp_path / "x", {"side": 4})


def test_an_edit_takes_the_shadow_along(tmp_path: Path) -> None:
    kind, seen, right, left = Shadows(side=32), set(), [], []
    for number in range(18):
        before, after, said, what = kind.edit("test", number)
        seen.add(what)
        (thing,) = before.things
        if what == "move":
            way = np.array(WAYS[said.rsplit(" ", 1)[1]])
            assert np.allclose([after.things[0].x - thing.x, after.things[0].y - thing.y], FAR * way)
        elif what == "light":
            assert after.light == WAYS[said.rsplit(" ", 1)[1]] != before.light and after.things == before.things
        else:
            assert not after.things and not render(after, 32).dark.any()
            continue
        old, new = render(before, 32), render(after, 32)
        scores = [(lambda found: (found & new.dark).sum() / max(1, (found | new.dark).sum()))(shadow_found(p, after))
                  for p in (new.picture, old.picture)]
        right.append(scores[0])
        left.append(scores[1])
    assert seen == set(KINDS) and np.mean(right) > 0.8 > 0.4 > np.mean(left)
    document = next(make_shadows(tmp_path / "shadows", {"documents": 12}).documents("train"))
    assert document.fields["label"] in KINDS and len(document.fields["images"]) == 1
