"""Pictures and texts compared by a model that sees colours and reads their names: every score is known beforehand."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from meristem.codecs import char
from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus, line
from meristem.evals import run
from meristem.evals.subject import Subject
from meristem.evals.tasks import retrieval, zero_shot

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
NAMES = sorted(COLOURS)


@dataclass(frozen=True)
class Config:
    """What tasks ask of a config."""

    image: int = 8
    channels: int = 3
    part: str = "both"


class Reader(nn.Module):
    """Sees which colour a picture has; of a text, with the word `key` in it, which colour it names: else "blue"."""

    def __init__(self, codec: char.Char, key: str = "", blind: bool = False):
        super().__init__()
        self.config, self.codec, self.key, self.blind = Config(), codec, key, blind

    def embed_images(self, images: Tensor) -> Tensor:
        known = torch.tensor([COLOURS[name] for name in NAMES]) / 127.5 - 1
        at = torch.cdist(images.mean((2, 3)), known).argmin(1)
        return torch.eye(4)[torch.zeros_like(at) if self.blind else at]

    def embed_texts(self, tokens: Tensor) -> Tensor:
        texts = [self.codec.decode(row[row != self.codec.end].numpy()) for row in tokens]
        named = [next((n for n in NAMES if n in text and self.key in text), "blue") for text in texts]
        return torch.eye(4)[torch.tensor([NAMES.index(name) for name in named])]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Plain pictures that differ by a little; green ones are of the test split alone."""
    folder, rng = tmp_path_factory.mktemp("plain"), np.random.default_rng(0)
    for split, names in (("train", ["red", "blue", "grey"]), ("validation", ["red"]), ("test", NAMES)):
        rows = []
        for number in range(10 * len(names)):
            name = names[number % len(names)]
            pixels = np.clip(np.array(COLOURS[name])[:, None, None] + rng.integers(-9, 9, (3, 8, 8)), 0, 255)
            file = f"{split}-{number}.png"
            (folder / file).write_bytes(encode(pixels.astype(np.uint8)))
            rows.append(line({"image": file, "text": f"all {name}, number {number}", "label": name}))
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return labelled(folder)


@pytest.fixture(scope="module")
def codec(corpus: Corpus) -> char.Char:
    return char.fit([*(d.text for d in corpus.documents("test")), " ".join(zero_shot.TEMPLATES)])


def asked(corpus: Corpus, codec: char.Char, module: nn.Module, task: str) -> dict:
    return {s.name: s for s in run.evaluate(Subject(module, codec, str(id(module)), 64), corpus, [task])}


def test_who_reads_every_template_is_always_right(corpus: Corpus, codec: char.Char) -> None:
    scores = asked(corpus, codec, Reader(codec), "zero_shot")
    assert {name: s.value for name, s in scores.items()} == {
        "zero_shot": 1, "zero_shot_best": 1, "zero_shot_median": 1, "zero_shot_worst": 1, "zero_shot_spread": 0}
    assert scores["zero_shot"].n == 40 and scores["zero_shot"].contamination.exact == 0
    assert [s.value for s in scores["zero_shot"].beside] == [0.25]
    assert scores["zero_shot"].baseline.value == pytest.approx(0.75)           # no green picture to look up


def test_the_spread_says_how_much_hangs_on_the_phrasing(corpus: Corpus, codec: char.Char) -> None:
    scores = asked(corpus, codec, Reader(codec, key="picture"), "zero_shot")
    assert len(zero_shot.TEMPLATES) >= 8
    knows = sum("picture" in template for template in zero_shot.TEMPLATES)
    assert 0 < knows < len(zero_shot.TEMPLATES) / 2
    assert scores["zero_shot"].value == 1                      # the mean still leans towards the right one
    assert scores["zero_shot_best"].value == 1 and scores["zero_shot_worst"].value == 0.25
    assert scores["zero_shot_median"].value == 0.25
    assert scores["zero_shot_spread"].value == pytest.approx(0.75)
    assert scores["zero_shot_spread"].interval.low < 0.75 < scores["zero_shot_spread"].interval.high


def test_own_templates_are_read_from_a_file(corpus: Corpus, codec: char.Char, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("picture: {}\n\n{}\n")
    made = run.task_of(f"zero_shot={tmp_path / 'mine.txt'}")
    assert made.templates == ("picture: {}", "{}") and zero_shot.TASK.templates == zero_shot.TEMPLATES
    found = made.on(corpus).items(corpus, codec, 5, 0)
    assert len(found) == 5 and found[0].prompt.endswith("\npicture: {}\n{}")
    for text in ("no place", "{} {}", ""):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(RequestError, match="one a line, each with {}"):
            run.task_of(f"zero_shot={tmp_path / 'bad.txt'}")


def test_retrieval_both_ways(corpus: Corpus, codec: char.Char) -> None:
    """Ten captions a colour: the right colour is found and which of its ten is a guess."""
    scores = asked(corpus, codec, Reader(codec), "retrieval")
    assert set(scores) == {"text_at_1", "text_at_5", "image_at_1", "image_at_5"}
    assert scores["text_at_5"].n == 40 and [s.value for s in scores["text_at_5"].beside] == [5 / 40]
    for way in ("text", "image"):
        assert scores[f"{way}_at_1"].value == pytest.approx(0.1, abs=0.13)
        assert scores[f"{way}_at_5"].value == pytest.approx(0.5, abs=0.2)
    blind = asked(corpus, codec, Reader(codec, blind=True), "retrieval")
    assert blind["text_at_5"].value < 0.3


def test_retrieval_by_hand() -> None:
    from meristem.evals.base import Item
    items = [Item(str(n), f"{n}.png", text) for n, text in enumerate(["a", "b", "a", "c", "d", "e", "f"])]
    texts = retrieval.captions(items)
    scores = torch.zeros(7, 6)
    for row, item in enumerate(items):
        scores[row, texts.index(item.answer)] = 1.0
    scores[1] = torch.tensor([0.9, 0.0, 0.8, 0.7, 0.6, 0.5])   # the second picture fits every text but its own
    found = retrieval.outcome(scores, texts, items)
    assert found.values["text_at_1"] == [1, 0, 1, 1, 1, 1, 1] and found.values["text_at_5"][1] == 0
    assert found.values["image_at_1"] == [1, 0, 1, 1, 1, 1, 1]
    assert found.outputs == ["a", "a", "a", "c", "d", "e", "f"]


def test_models_that_do_not_compare(corpus: Corpus, codec: char.Char) -> None:
    module = Reader(codec)
    module.config = Config(part="image")
    for task in ("zero_shot", "retrieval"):
        with pytest.raises(RequestError, match=f"{task}: this model does not compare pictures with texts"):
            asked(corpus, codec, module, task)
