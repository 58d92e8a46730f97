"""The neural codec: shapes, causality, codewords that follow their vectors, files, and words spoken in them."""
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem.codecs import audio
from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import tones
from meristem.generate.speak import Levels, marks
from meristem.hub import hf
from meristem.models.audio_codec import Config, Model, Quantiser
from meristem.objectives.resound import spectra
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain
from tests.models import parity

SHAPE = {"rate": 8000, "samples": 800, "channels": 4, "strides": (4, 5), "latent": 8, "levels": 2, "codes": 8}
QUICK = {"train.batch": 4, "train.steps": 4, "train.warmup": 1, "train.context": 8, "train.dtype": "float32"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tones.make(tmp_path_factory.mktemp("tones") / "corpus", {"documents": 12, "syllables": 1})


@torch.no_grad()
def test_tokens_look_back_only_and_files_come_back(tmp_path: Path) -> None:
    config, module = parity.ours("audio_codec", **SHAPE)
    sound = torch.randn(2, 800, generator=torch.Generator().manual_seed(0))
    ids = module.tokens(sound)
    assert ids.shape == (2, 40, 2) and module.sound(ids).shape == (2, 800)
    later = sound.clone()
    later[:, 400:] = 0
    assert torch.equal(module.tokens(later)[:, :20], ids[:, :20])
    cut = module.sound(ids[:, :20])
    assert torch.allclose(module.sound(ids)[:, :cut.shape[1] - 40], cut[:, :-40], atol=1e-5)
    hf.save(tmp_path / "codec", "audio_codec", config, module)
    again = hf.load(tmp_path / "codec")
    assert again.config == config and torch.equal(again.module.tokens(sound), ids)
    with pytest.raises(ValueError, match="multiple of the strides"):
        Config(**{**SHAPE, "samples": 801})


def test_codewords_go_to_what_chooses_them() -> None:
    torch.manual_seed(0)
    c = Config(**{**SHAPE, "levels": 1, "codes": 4, "latent": 2})
    quantiser = Quantiser(c)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    for _ in range(200):
        x = centres[torch.randint(4, (64,))] + 0.1 * torch.randn(64, 2)
        quantiser(x, learn=True)
    found = quantiser.words[0]
    assert torch.cdist(centres, found).amin(1).max() < 0.3     # also those that no vector chose at first
    word, ids, away = quantiser(centres)
    assert len(ids.unique()) == 4 and away.max() < 0.1 and torch.equal(quantiser.read(ids), word)


def test_spectra_of_a_sound_and_itself() -> None:
    x = torch.randn(2, 2048, generator=torch.Generator().manual_seed(0))
    assert spectra(x, x, 8000).max() == 0 and spectra(0 * x, x, 8000).min() > 0.5


def test_a_codec_then_a_voice_then_a_wave(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from meristem.cli.main import main
    shape = {f"model.{key}": list(v) if isinstance(v, tuple) else v for key, v in SHAPE.items()}
    ear = pretrain(edit(recipes()["audio_codec"](), {**QUICK, **shape, "data.corpus": str(corpus.folder)}),
                   tmp_path / "codec")
    assert np.isfinite(read_log(ear / "log.jsonl")[-1]["spectrum"])
    run = edit(recipes()["speak"](), {
        **QUICK, "data.corpus": str(corpus.folder), "objective.ear": str(ear), "model.dim": 16, "model.layers": 1,
        "model.heads": 2, "model.hidden": 32, "model.context": 96, "data.codec.vocab": 300,
        "data.codec.special": marks(2, 8)})
    out = pretrain(run, tmp_path / "speak")
    status = main(["generate", str(out), "ba", "--count", "2", "--out", str(tmp_path / "x.wav"), "--seed", "3"])
    assert status == 0, capsys.readouterr().err
    assert main(["generate", str(ear), "ba", "--out", str(tmp_path / "y.wav")]) == 2
    assert "makes no sounds" in capsys.readouterr().err
    samples, rate = audio.opened((tmp_path / "x.wav").read_bytes())
    assert rate == 8000 and len(samples) == 2 * (800 + 1600)
    with pytest.raises(RequestError, match="raise model.context"):
        pretrain(edit(run, {"model.context": 60}), tmp_path / "small")


def test_levels_come_in_turn() -> None:
    rule = Levels(torch.tensor([[1, 2], [5, 6]]))
    assert rule.apply(torch.zeros(8)).isfinite().nonzero().flatten().tolist() == [1, 2]
    rule.push(1)
    assert rule.copy().apply(torch.zeros(8)).isfinite().nonzero().flatten().tolist() == [5, 6]
    assert Model(Config(**SHAPE)).quantiser.words.shape == (2, 8, 8)
