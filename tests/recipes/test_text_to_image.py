"""DALL-E and unCLIP stage by stage: interrupted, resumed to the same bits, with adapters, painted and judged."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core import faults
from meristem.corpus.store import Corpus
from meristem.data import scenes
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.generate.pictures import Wish, paint
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.recipes import resolve
from meristem.train.painting import open_painter
from meristem.train.run import pretrain

QUICK = {"train.steps": 3, "train.batch": 8, "train.warmup": 1, "train.save_seconds": 0.0, "train.compile": False}
TOWER = {"dim": 32, "layers": 1, "heads": 2}
STAGES: dict[str, dict[str, Any]] = {
    "vit": {"model.image": 16, "model.dim": 32, "model.layers": 1},
    "dvae": {"model.channels": [16, 32]},
    "dalle": {"model.dim": 32, "model.layers": 1, "objective.autoencoder": "dvae"},
    "clip": {"model.image": 16, "model.project": 32, "model.text": TOWER, "model.vision": TOWER},
    "prior": {"model.width": 32, "model.dim": 32, "model.layers": 1, "objective.clip": "clip"},
    "unclip": {"model.channels": [16, 32], "model.embedding": 32, "model.cross": 32, "objective.clip": "clip",
               "objective.prior": "prior"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return scenes.make(tmp_path_factory.mktemp("scenes") / "corpus", {"documents": 40, "side": 16, "objects": 1})


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all stages, each run broken after its second step and gone on with."""
    folder = tmp_path_factory.mktemp("runs")
    for name in STAGES:
        faults.arm("step.end:2:error")
        with pytest.raises(OSError, match="injected"):
            pretrain(stage(name, corpus, folder), folder / name)
        faults.arm("")
        pretrain(stage(name, corpus, folder), folder / name)
    return folder


def stage(name: str, corpus: Corpus, folder: Path, **more: Any) -> Any:
    edits = {key: str(folder / value) if key.startswith("objective.") else value for key, value in STAGES[name].items()}
    return resolve(name, {**QUICK, **edits, "data.corpus": str(corpus.folder), **more})[0]


def same(one: Path, other: Path) -> bool:
    a, b = Tensors.open(one / "model"), Tensors.open(other / "model")
    return sorted(a) == sorted(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["dvae", "dalle", "prior", "unclip"])
def test_a_broken_run_ends_in_the_same_bits(name: str, runs: Path, corpus: Corpus, tmp_path: Path) -> None:
    whole = pretrain(stage(name, corpus, runs), tmp_path / "whole")
    assert same(whole, runs / name)


@pytest.mark.parametrize("name", ["dalle", "prior", "unclip"])
def test_an_adapter_on_a_finished_run(name: str, runs: Path, corpus: Corpus, tmp_path: Path) -> None:
    more = {"base": str(runs / name), "adapt.name": "lora", "adapt.rank": 2, "train.lr": 0.01}
    tuned = pretrain(stage(name, corpus, runs, **more), tmp_path / "tuned")
    before, after = (hf.load(folder).module.state_dict() for folder in (runs / name, tuned))
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved and len(moved) < len(before) and (tuned / "adapter").is_dir()


@pytest.mark.parametrize("name", ["dalle", "unclip"])
def test_captions_are_painted_and_judged(name: str, runs: Path, corpus: Corpus) -> None:
    images = paint(open_painter(runs / name), Wish(("a red circle", "a blue ring"), steps=2))
    assert images.shape == (2, 3, 16, 16)
    subject = Subject.open(runs / name)
    tasks = [f"caption_consistency{kind}={runs / 'vit'}" for kind in ("", "_seen")]
    unseen, seen = evaluate(subject, corpus, tasks, limit=3)
    assert (unseen.n, seen.n, unseen.unit) == (3, 3, "of pictures") and 0 <= unseen.value <= 1
    labels = len(corpus.summary["labels"])
    assert unseen.baseline and unseen.baseline.value == pytest.approx(1 / labels)
    assert [one.what for one in unseen.beside] == ["the judge on the real pictures"]
