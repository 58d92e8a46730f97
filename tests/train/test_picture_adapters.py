"""LoRA on every family of pictures: only the adapter learns, a killed run ends in the same bits, and merges."""
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.adapt import lora
from meristem.core.config import to_dict
from meristem.corpus.store import Corpus
from meristem.data import scenes
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.recipes import resolve
from meristem.train.run import pretrain
from tests.starter import killed
from tests.train.test_pictures import EDITS, SMALL

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, edits) for name, edits in EDITS.items()},
    "dit": ("diffusion", {"model": {"name": "dit", "fields": {
        "inputs": 3, "image": 16, "patch": 4, "dim": 32, "layers": 1, "heads": 2, "classes": 49}}}),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return scenes.make(tmp_path_factory.mktemp("scenes") / "corpus", {"documents": 40, "side": 16, "held_out": 0.0})


@pytest.mark.parametrize("name", [
    "clip", "autoencoder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "diffusion", "dit"))])
def test_adapted_killed_and_merged(name: str, corpus: Corpus, tmp_path: Path) -> None:
    recipe, edits = RECIPES[name]
    small = {**SMALL, "train.steps": 4, "data.corpus": str(corpus.folder)}
    base = pretrain(resolve(recipe, {**small, **edits, "train.steps": 3})[0], tmp_path / "base")   # opens a DiT's gates
    run, _ = resolve(recipe, {**small, **edits, "base": str(base), "adapt.name": "lora", "adapt.rank": 2,
                              "train.lr": 0.01})
    whole = pretrain(run, tmp_path / "whole")
    (tmp_path / "run.json").write_text(json.dumps(to_dict(run)))
    assert killed(tmp_path / "run.json", tmp_path / "killed", "step.end:3:kill") == -signal.SIGKILL
    again = pretrain(run, tmp_path / "killed")
    for part in ("model", "adapter"):
        one, two = ({p.name: p.read_bytes() for p in (folder / part).glob("*.safetensors")}
                    for folder in (whole, again))
        assert one and one == two
    before, after = Tensors.open(base / "model"), Tensors.open(whole / "model")
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved and len(moved) < len(before)
    loaded = hf.load(base)
    lora.load(whole / "adapter", loaded.module, loaded.family, hf.identity(loaded.family, loaded.module))
    lora.merge(loaded.module)
    merged = hf.load(whole).module.state_dict()
    assert all(torch.equal(tensor, merged[key]) for key, tensor in loaded.module.state_dict().items())
