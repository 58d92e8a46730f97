"""Sounds as batches: rows, what was heard, changes as functions of (seed, step, row), damage, refusals."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem import codecs
from meristem.codecs import audio, char
from meristem.core.errors import MachineError, RequestError
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.data import tones
from meristem.data.sounds import Changes, Form, Sounds, changed, hide
from meristem.models.clap import Config

CHANGES = Changes(speed=0.2, gain=6.0, noise=0.1, shift=0.2, bands=4, times=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tones.make(tmp_path_factory.mktemp("tones") / "corpus", {"documents": 12})


def source(corpus: Corpus, form: Form, split: str = "train") -> Sounds:
    codec = char.fit(d.text for s in char.SPLITS for d in corpus.documents(s))
    return Sounds.of(corpus, codec, split, form, 8, (4, 7, 2))


def test_rows_are_what_was_said(corpus: Corpus) -> None:
    form = Form(8000, 6400, mels=20)
    batch, other = source(corpus, form)(0)
    assert batch["mel"].shape == (2, 20, 80) and batch["tokens"].shape == (2, 9) and len(other["labels"]) == 2
    codec = char.fit(d.text for s in char.SPLITS for d in corpus.documents(s))
    rows = {d.text: d for d in corpus.documents("train")}
    for tokens, label in zip(batch["tokens"], batch["labels"], strict=True):
        text = codec.decode(tokens.numpy())
        assert text in rows and corpus.summary["labels"][label] == rows[text].fields["label"]
    plain = source(corpus, Form(8000, 6400)).batch(np.array([0]))
    n = int(plain["heard"][0])
    heard = plain["sound"][0, :n]
    assert 1000 < n <= 6400 and abs(float(heard.mean())) < 1e-4 and abs(float(heard.std()) - 1) < 1e-2
    assert not plain["sound"][0, n:].any()


def test_changes_are_functions_of_seed_step_and_row(corpus: Corpus) -> None:
    form = Form(8000, 6400, 20, CHANGES)
    a, b = source(corpus, form), source(corpus, form)
    assert all(torch.equal(x[key], y[key]) for x, y in zip(a(3), b(3), strict=True) for key in x)
    first, again = a(0)[0]["mel"], a.batch(a.order(0)[0])["mel"]
    assert not torch.equal(first, again)                       # held-out batches are not changed
    assert torch.equal(again, a.batch(a.order(0)[0])["mel"])


def test_each_change_does_what_it_says() -> None:
    x = np.sin(2 * np.pi * 400 * np.arange(4000) / 8000).astype(np.float32)
    padded, rng = audio.fit(x, 8000), np.random.default_rng(0)
    faster, heard = changed(padded, 4000, Form(8000, 8000, changes=Changes(speed=0.3)), rng)
    peak = np.abs(np.fft.rfft(faster[:heard] * np.hanning(heard))).argmax() * 8000 / heard
    assert heard != 4000 and abs(peak / 400 - 4000 / heard) < 0.01
    later, heard = changed(padded, 4000, Form(8000, 8000, changes=Changes(shift=0.4)), rng)
    begin = heard - 4000
    assert begin > 0 and not later[:begin].any() and np.array_equal(later[begin:heard], x)
    noise = rng.normal(size=8000).astype(np.float32)
    toned, heard = changed(noise, 4000, Form(8000, 8000, changes=Changes(tone=12.0)), rng)
    before, after = (np.abs(np.fft.rfft(some)) for some in (noise, toned))
    change = 20 * np.log10(after[1:-1] / before[1:-1])
    assert heard == 4000 and 2 < np.abs(change).max() <= 12.1 and np.abs(np.diff(change)).max() < 0.2
    frames = rng.normal(size=(20, 30)).astype(np.float32)
    shown = frames.copy()
    hide(shown, Changes(bands=5, times=8), rng)
    rows, columns = ((shown != frames).any(1).sum(), (shown != frames).any(0).sum())
    assert rows and columns and (shown != frames).sum() < 600


def test_claps_frames_are_those_of_transformers() -> None:
    from transformers import ClapFeatureExtractor
    x = np.random.default_rng(0).normal(0, 0.1, 62_400).astype(np.float32)         # 1.3 seconds: seven times, then none
    theirs = ClapFeatureExtractor(truncation="rand_trunc")
    want = theirs(x, sampling_rate=48_000, return_tensors="np").input_features[0, 0]
    form = Form.wanted(Config())
    got = form.of(audio.fit(x, form.count)[None], np.array([len(x)]))["mel"][0].numpy()
    assert got.shape == (64, 1001)
    np.testing.assert_allclose(got.T, want, atol=2e-3)         # decibels, of -100 to 40


def test_damage_and_rows_that_are_none(corpus: Corpus, tmp_path: Path) -> None:
    form = Form(4000, 1000)
    source(corpus, form)
    file = corpus.folder / "sounds" / "4000-1000" / "train.bin"
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    with pytest.raises(MachineError, match="cannot be trusted"):
        source(corpus, form)
    for row, what in (({"audio": "a.txt"}, "ends in .wav"), ({"audio": "../a.wav"}, "outside|cannot be read"),
                      ({"audio": "a.wav", "label": [1]}, "strings"), ({"series": []}, "series is a list"),
                      ({"series": [None]}, "series is a list"), ({"series": [1, "2"]}, "series is a list")):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(RequestError, match=what):
            labelled(tmp_path / "rows.jsonl")
    text = labelled(_texts(tmp_path))
    with pytest.raises(RequestError, match="has no sounds"):
        Sounds.of(text, char.Char("a"), "train", form, 8, (1, 0, 0))
    assert codecs.KINDS


def _texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"a{n}", "label": "x"}) + "\n" for n in range(60)))
    return path
