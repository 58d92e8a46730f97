"""A painter whose pictures are known gets the share that is right; the real pictures and chance stand beside it."""
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.core.progress import SILENT
from meristem.corpus.store import Corpus
from meristem.data import scenes
from meristem.evals.base import Item
from meristem.evals.judge import Judge
from meristem.evals.subject import NoText, Subject
from meristem.evals.tasks import caption_consistency
from meristem.evals.tasks.caption_consistency import CaptionConsistency
from meristem.generate.pictures import Wish

LABELS = ("black", "white", "red")
COLOURS = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1]])


class ByColour(nn.Module):
    """A judge that names the nearest colour of the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image=4, channels=3, head="image", labels=LABELS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(images.mean((2, 3)), COLOURS)


class Painter:
    """Paints what it is told, but every fourth picture white."""

    side, channels, hows = 4, 3, frozenset({"new"})

    def paint(self, wish: Wish) -> torch.Tensor:
        told = [LABELS.index(text.split()[1]) if i % 4 else 1 for i, text in enumerate(wish.texts)]
        return COLOURS[told][..., None, None].expand(-1, -1, 4, 4)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> CaptionConsistency:
    monkeypatch.setattr(caption_consistency, "open_painter", lambda folder: Painter())
    module = ByColour()
    monkeypatch.setattr(Judge, "loaded", SimpleNamespace(module=module, config=module.config))
    return CaptionConsistency(judge=Path("judge"))


class Rows:
    """A corpus of captions."""

    def documents(self, split: str) -> list[Any]:
        names = [("black", "red"), ("unheard",)][split == "validation"] * 10
        return [SimpleNamespace(id=f"{split}{i}", text=f"a {name} field", fields={"image": f"{i}.png", "label": name})
                for i, name in enumerate(names)]


def test_the_share_is_that_of_right_pictures(task: CaptionConsistency, tmp_path: Path) -> None:
    corpus: Any = Rows()
    items = task.items(corpus, NoText(), 100, 0)
    assert len(items) == 20 and {item.answer for item in items} == {"black", "red"}
    assert len(task.items(corpus, NoText(), 7, 0)) == 7
    subject = Subject(nn.Identity(), NoText(), "", 0, folder=tmp_path)
    found = task.run(subject, items, 0, SILENT)
    assert sum(found.values["caption_consistency"]) == 15      # of 20, five were painted white
    assert found.outputs[0] == "white" and found.outputs[1] == items[1].answer
    with pytest.raises(RequestError, match="run folder"):
        task.run(Subject(nn.Identity(), NoText(), "", 0), items, 0, SILENT)


def test_labels_that_the_judge_does_not_know_are_not_asked(task: CaptionConsistency) -> None:
    assert not CaptionConsistency(split="validation", judge=task.judge).items(Rows(), NoText(), 100, 0)       # type: ignore[arg-type]


def test_beside_chance_stand_the_real_pictures(task: CaptionConsistency, tmp_path: Path) -> None:
    corpus: Corpus = scenes.make(tmp_path / "corpus", {"documents": 40, "side": 16, "objects": 1})
    items = [Item(d.id, d.text, "white") for d in corpus.documents("test")]
    found = task.baselines(corpus, items, lambda: pytest.fail("no n-gram is needed"), 0)
    chance = found["caption_consistency"].outcome.values["caption_consistency"]
    assert chance == pytest.approx([1 / 3] * len(items))
    real = found["caption_consistency/real"].outcome           # scenes are mostly ground, which is nearly white
    assert real.outputs == ["white"] * len(items) and sum(real.values["caption_consistency"]) == len(items)


def test_a_judge_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="caption_consistency=FOLDER"):
        CaptionConsistency().classifier()
    assert caption_consistency.TASK.reading(tmp_path).judge == tmp_path
