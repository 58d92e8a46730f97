"""Every modality goes through every stage: pretrained, adapted, judged and used, by the same trainer, shell and tasks.

One row of MODALITIES is a modality: how its toy corpus is made, a recipe with edits that make it tiny, a task, how a
finished run is used from the shell (where the shell has no verb for it, from Python). A cell is a test.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meristem
from meristem.cli.main import main
from meristem.codecs.image import encode
from meristem.core.files import read_json
from meristem.corpus.store import Corpus
from meristem.corpus.toy import make as text
from meristem.data import clips, gridworld, looks, residues, scenes, tones, waves
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks.classes import said
from meristem.generate.acting import Actor
from meristem.generate.listen import transcribe
from meristem.hub import hf
from meristem.recipes import resolve
from meristem.train.run import pretrain

TINY: dict[str, Any] = {"train.steps": 1, "train.batch": 4, "train.warmup": 0, "train.compile": False,
                        "train.dtype": "float32", "train.validate_every": 0, "train.sample_every": 0}
WORDS = {"dim": 32, "layers": 1, "heads": 2, "hidden": 64}
SEEING = {"model.language": {"name": "llama", "fields": WORDS}, "model.vision": {"name": "clip", "fields": {
    "image": 16, "patch": 8, "vision": {"dim": 32, "layers": 1, "heads": 2}}}}
STAGES = ("pretrain", "adapt", "evaluate", "use")


@dataclass(frozen=True)
class Modality:
    """A row of the matrix."""

    corpus: Callable[[Path], Corpus]
    recipe: str
    edits: dict[str, Any]
    task: str
    use: Callable[[Path, Path], bool]   # the run, a folder for what is made
    adapt: dict[str, Any] = field(default_factory=dict)


def asked(run: Path, folder: Path) -> bool:
    """The shell answers about a picture."""
    (folder / "a.png").write_bytes(encode(np.zeros((3, 16, 16), dtype=np.uint8)))
    return main(["generate", str(run), "what colour?", "--image", str(folder / "a.png"), "--length", "2"]) == 0


def acted(run: Path, folder: Path) -> bool:
    """The policy takes a step in its world."""
    model, world = meristem.load(run), gridworld.Gridworld().episode("test", 0)
    (action,) = Actor(model.module, model.codec, 3)([world.instruction], [world.frame()])
    return not world.success and world.act(action) in (True, False)


MODALITIES = {
    "text": Modality(
        lambda folder: text("arithmetic", folder / "text", {"documents": 40}), "llama",
        {**{f"model.{key}": value for key, value in WORDS.items()}, "train.context": 48, "data.codec.name": "char"},
        "exact_answer", lambda run, folder: main(["generate", str(run), "1+1=", "--length", "2"]) == 0),
    "pictures": Modality(
        lambda folder: scenes.make(folder / "scenes", {"documents": 40, "side": 16, "held_out": 0.0}), "vit",
        {"model.image": 16, "model.dim": 32, "model.layers": 1}, "classes",
        lambda run, folder: said(hf.load(run).module, np.zeros((1, 3, 16, 16), dtype=np.uint8))[0].count(" ") == 1),
    "pictures and words": Modality(
        lambda folder: looks.make(folder / "looks", {"documents": 40, "side": 16}), "llava",
        {**SEEING, "train.context": 32, "data.codec.vocab": 300}, "visual_answers", asked),
    "films": Modality(
        lambda folder: clips.make(folder / "clips", {"documents": 20, "frames": 3}), "film_clip",
        {"model.frames": 3, "model.text": {"dim": 16, "layers": 1, "heads": 2},
         "model.vision": {"dim": 16, "layers": 1, "heads": 2}, "data.codec.vocab": 300}, "film_classes",
        lambda run, folder: hf.load(run).module.float().embed_images(torch.zeros(1, 3, 3, 16, 16)).shape == (1, 64)),
    "actions": Modality(
        lambda folder: gridworld.make(folder / "grid", {"documents": 20}), "rt2", {**SEEING, "train.context": 40},
        "closed_loop", acted),
    "proteins": Modality(
        lambda folder: residues.make(folder / "chains", {"documents": 40}), "esm_residues",
        {"model.dim": 16, "model.layers": 1, "model.heads": 2, "train.context": 64}, "token_classes",
        lambda run, folder: meristem.load(run).embed("MKVLA").shape == (16,)),
    "sound": Modality(
        lambda folder: tones.make(folder / "tones", {"documents": 20, "syllables": 1}), "listen",
        {"model.dim": 16, "model.layers": 1, "model.heads": 2, "model.places": 25, "model.mels": 10,
         "model.decoder_layers": 1, "train.context": 8}, "word_errors",
        lambda run, folder: len(transcribe(hf.load(run).module, hf.load(run).codec, [np.ones(2000, np.float32)])) == 1),
    "sound and words": Modality(
        lambda folder: tones.make(folder / "named", {"documents": 20, "syllables": 1}), "clap",
        {"model.dim": 16, "model.depths": [1, 1], "model.text": {"dim": 16, "layers": 1, "heads": 2},
         "train.context": 8}, "sound_words",
        lambda run, folder: hf.load(run).module.float().embed_audio(torch.zeros(1, 32, 100)).shape == (1, 64)),
    "series": Modality(
        lambda folder: waves.make(folder / "waves", {"documents": 10, "length": 140}), "series",
        {"model.dim": 32, "model.layers": 1, "model.heads": 2}, "forecast",
        lambda run, folder: hf.load(run).module(torch.randn(1, 96)).shape == (1, 24, 9)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Modality, Corpus, Path, dict[str, Any]]]:
    """A modality with its corpus and its pretrained run, made when it is first asked for."""
    folder, kept = tmp_path_factory.mktemp("modalities"), {}

    def of(name: str) -> tuple[Modality, Corpus, Path, dict[str, Any]]:
        if name not in kept:
            row = MODALITIES[name]
            (folder / name).mkdir()
            corpus = row.corpus(folder / name)
            edits = {**TINY, **row.edits, "data.corpus": str(corpus.folder)}
            kept[name] = row, corpus, pretrain(resolve(row.recipe, edits)[0], folder / name / "run"), edits
        return kept[name]
    return of


@pytest.mark.slow                       # 36 cells
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", MODALITIES)
def test_cell(name: str, stage: str, made: Any, tmp_path: Path) -> None:
    row, corpus, run, edits = made(name)
    if stage == "pretrain":
        result = read_json(run / "result.json")
        assert result["step"] == 1 and np.isfinite([result["loss"], result["validation"]]).all()
    elif stage == "adapt":
        lora = {"base": str(run), "adapt.name": "lora", "adapt.rank": 2, **row.adapt}
        adapted, _ = resolve(row.recipe, {**edits, **lora})
        facts = read_json(pretrain(adapted, tmp_path / "adapted") / "manifest.json")
        assert 0 < facts["trainable"] < facts["parameters"] / 2
    elif stage == "evaluate":
        scores = evaluate(Subject.open(run), corpus, [row.task], limit=4)
        assert scores and all(s.interval.low <= s.value <= s.interval.high for s in scores)
    else:
        assert row.use(run, corpus.folder.parent)
