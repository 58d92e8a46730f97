"""Models of pictures go through the same run as text: trained, killed, resumed, written and read."""
import json
import signal
from pathlib import Path

import pytest
import torch

from meristem.core.config import to_dict
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.corpus.store import Corpus
from meristem.corpus.toy import make
from meristem.data import scenes
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.recipes import resolve
from meristem.train.run import assemble, pretrain
from tests.starter import killed

SMALL = {"train.steps": 6, "train.batch": 8, "train.compile": False, "train.warmup": 1, "train.save_seconds": 0.0}
EDITS = {
    "vit": {"model.image": 16, "model.dim": 32, "model.layers": 1},
    "clip": {"model.image": 16, "model.project": 16, "model.text": {"dim": 32, "layers": 1, "heads": 2},
             "model.vision": {"dim": 32, "layers": 1, "heads": 2}},
    "autoencoder": {"model.image": 16, "model.channels": [16, 32]},
    "diffusion": {"model.image": 16, "model.channels": [16, 32], "model.attention": [False, True], "model.head_dim": 16,
                  "model.classes": 49},
    "dino": {"model.image": 16, "model.patch": 4, "model.dim": 32, "model.layers": 1, "model.heads": 2,
             "objective.prototypes": 32, "objective.hidden": 32, "objective.local": 1},
    "resnet": {"model.image": 16, "model.stem": 8, "model.widths": [8, 16], "model.depths": [1, 1]},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return scenes.make(tmp_path_factory.mktemp("scenes") / "corpus", {"documents": 60, "side": 16, "held_out": 0.0})


@pytest.mark.parametrize("recipe", EDITS)
def test_a_run_that_is_killed_ends_in_the_same_bits(recipe: str, corpus: Corpus, tmp_path: Path) -> None:
    run, _ = resolve(recipe, {**SMALL, **EDITS[recipe], "data.corpus": str(corpus.folder)})
    whole = pretrain(run, tmp_path / "whole")
    (tmp_path / "run.json").write_text(json.dumps(to_dict(run)))
    assert killed(tmp_path / "run.json", tmp_path / "killed", "step.end:4:kill") == -signal.SIGKILL
    again = pretrain(run, tmp_path / "killed")
    one, two = (Tensors.open(folder / "model") for folder in (whole, again))
    assert len(one) > 5 and sorted(one) == sorted(two) and all(torch.equal(one[name], two[name]) for name in one)
    result = read_json(whole / "result.json")
    assert result["step"] == 6 and result["validation"] > 0 and result["flops"] > 0
    loaded = hf.load(whole / "model")
    assert loaded.family == run.model.name and (loaded.codec is None) == (recipe != "clip")


def test_a_tuned_classifier_begins_with_its_base(corpus: Corpus, tmp_path: Path) -> None:
    edits = {**SMALL, **EDITS["vit"], "data.corpus": str(corpus.folder)}
    base = pretrain(resolve("vit", edits)[0], tmp_path / "base")
    parts = assemble(resolve("vit", {**edits, "base": str(base)})[0])
    assert torch.equal(parts.objective.model.blocks[0].mlp.up.weight, hf.load(base).module.blocks[0].mlp.up.weight)
    assert parts.config.labels == tuple(corpus.summary["labels"])


def test_a_corpus_without_pictures_is_refused(tmp_path: Path) -> None:
    words = make("arithmetic", tmp_path / "words", {"documents": 30})
    with pytest.raises(RequestError, match="has no pictures"):
        assemble(resolve("vit", {**SMALL, **EDITS["vit"], "data.corpus": str(words.folder)})[0])
    with pytest.raises(RequestError, match="sees no pictures"):
        assemble(resolve("gpt2", {"data.corpus": str(words.folder), "data.examples": "pictures"})[0])
