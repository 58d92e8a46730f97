"""Sounds, proteins and series: a run that was killed ends in the very bits of one that was not, for every recipe."""
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from meristem.core.config import to_dict
from meristem.corpus.store import Corpus
from meristem.data import residues, tones, waves
from meristem.generate.speak import marks
from meristem.recipes import resolve
from meristem.train.run import pretrain
from tests.starter import killed

QUICK = {"train.steps": 4, "train.batch": 4, "train.context": 16, "train.warmup": 1, "train.compile": False,
         "train.dtype": "float32", "train.validate_every": 0, "train.save_seconds": 0}
EAR = {"model.dim": 16, "model.layers": 1, "model.heads": 2, "model.places": 25, "model.mels": 10}
WAVES = {"model.samples": 2000, "model.dims": [8, 8, 8, 8], "model.dim": 16, "model.layers": 1, "model.heads": 2}
CODEC = {"model.samples": 1600, "model.channels": 4, "model.latent": 8, "model.levels": 2, "model.codes": 8}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "esm": ("residues", {"model.dim": 16, "model.layers": 1, "model.heads": 2}),
    "spoken": ("tones", EAR), "listen": ("tones", {**EAR, "model.decoder_layers": 1}),
    "wav2vec2": ("tones", {**WAVES, "model.codes": 4}), "hubert": ("tones", {**WAVES, "model.clusters": 5}),
    "letters": ("tones", WAVES), "audio_codec": ("tones", CODEC),
    "speak": ("tones", {"model.dim": 16, "model.layers": 1, "model.heads": 2, "model.hidden": 32, "model.context": 64,
                        "data.codec.vocab": 300, "data.codec.special": marks(2, 8)}),
    "series": ("waves", {"model.dim": 16, "model.layers": 1, "model.heads": 2})}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("corpora")
    return {"residues": residues.make(folder / "residues", {"documents": 12, "length": 30}),
            "tones": tones.make(folder / "tones", {"documents": 12, "syllables": 1}),
            "waves": waves.make(folder / "waves", {"documents": 10, "length": 140})}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES])
def test_killed_and_continued(name: str, corpora: dict[str, Corpus], tmp_path: Path) -> None:
    kind, edits = RECIPES[name]
    more = {}
    if name == "speak":
        ear, _ = resolve("audio_codec", {**QUICK, **CODEC, "data.corpus": str(corpora["tones"].folder)})
        more["objective.ear"] = str(pretrain(ear, tmp_path / "ear"))
    run, _ = resolve(name, {**QUICK, **edits, **more, "data.corpus": str(corpora[kind].folder)})
    whole = pretrain(run, tmp_path / "whole")
    (tmp_path / "run.json").write_text(json.dumps(to_dict(run)))
    assert killed(tmp_path / "run.json", tmp_path / "killed", "step.end:3:kill") == -signal.SIGKILL
    again = pretrain(run, tmp_path / "killed")
    one, two = ({p.name: p.read_bytes() for p in (folder / "model").glob("*.safetensors")} for folder in (whole, again))
    assert one and one == two
