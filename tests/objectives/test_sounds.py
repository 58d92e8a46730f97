"""Objectives of sounds: losses by hand and as transformers has them, and a word from tones to letters and back."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import tones
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks.word_errors import distance
from meristem.hub import hf
from meristem.objectives.base import make
from meristem.objectives.masked_clusters import k_means
from meristem.objectives.speech_contrast import elsewhere, stretches
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain
from tests.models import parity
from tests.models.test_wav2vec2 import BOOKS, HEARD, OURS, SOUND, THEIRS

QUICK = {"train.batch": 8, "train.warmup": 2, "train.context": 8, "train.lr": 3e-3, "train.dtype": "float32"}
EAR = {"model.dim": 32, "model.layers": 1, "model.heads": 2, "model.places": 25, "model.mels": 20, "model.std": 0.1}
WAVES = {"model.samples": 4000, "model.dims": [16, 24, 32, 32], "model.dim": 32, "model.layers": 1, "model.heads": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tones.make(tmp_path_factory.mktemp("tones") / "corpus", {"documents": 40, "syllables": 1})


def trained(name: str, corpus: Corpus, shape: dict[str, Any], **more: Any) -> Path:
    run = edit(recipes()[name](), {**QUICK, **shape, **more, "data.corpus": str(corpus.folder)})
    return pretrain(run, corpus.folder.parent / name)


@torch.no_grad()
def test_the_contrast_is_that_of_transformers() -> None:
    model = parity.theirs("Wav2Vec2ForPreTraining", "Wav2Vec2Config", **THEIRS, **BOOKS)
    module = parity.ours("wav2vec2", **{**OURS, "codes": 5, "code_dim": 12, "project": 14, "head": "contrast"})[1]
    from meristem.models.wav2vec2 import HF
    module.load_state_dict(HF.restore(model.state_dict(), module))
    torch.manual_seed(0)
    objective = make("speech_contrast", module, {"others": 6, "stretch": 3, "begin": 0.1}).eval()
    batch = objective.prepare({"sound": SOUND, "heard": torch.tensor([700, 700])})
    loss, facts = objective(batch)
    frames = batch["hidden"].shape[1]
    flat = batch["negatives"] + torch.arange(2)[:, None, None] * frames
    out = model(SOUND, mask_time_indices=batch["hidden"], sampled_negative_indices=flat)
    quantised, projected = out.projected_quantized_states, out.projected_states
    wrong = quantised.reshape(-1, 14)[flat.reshape(-1)].view(2, frames, 6, 14).permute(2, 0, 1, 3)
    logits = model.compute_contrastive_logits(quantised[None], wrong, projected, 0.1)
    logits[1:][(quantised == wrong).all(-1)] = float("-inf")
    want = F.cross_entropy(logits.permute(1, 2, 0)[batch["hidden"]], torch.zeros(int(batch["hidden"].sum())).long(),
                           reduction="sum")
    used = facts["used"] / batch["hidden"].sum()
    torch.testing.assert_close(loss - 0.1 * (10 - used) / 10 * batch["hidden"].sum(), want, rtol=1e-4, atol=1e-3)


def test_hidden_stretches_and_their_negatives() -> None:
    torch.manual_seed(1)
    config = parity.ours("wav2vec2", **OURS)[0]
    batch = {"sound": SOUND, "heard": HEARD}
    hidden = stretches(config, batch, 0.1, 4)
    real = config.frames(HEARD)
    assert hidden.any(1).all() and not hidden[1, real[1]:].any()
    negatives = elsewhere(hidden, 5)
    for row, at in hidden.nonzero().tolist():
        found = negatives[row, at]
        assert hidden[row][found].all() and (found != at).all()


def test_ctc_is_a_sum_over_alignments() -> None:
    module = parity.ours("wav2vec2", **{**OURS, "vocab": 4, "head": "ctc"})[1]
    objective = make("ctc", module, {})
    tokens = torch.tensor([[1, 2, 0, 0, 0]])
    batch = objective.prepare({"sound": SOUND[:1, :85], "heard": torch.tensor([85]), "tokens": tokens,
                               "segments": torch.tensor([[0, 0, 0, 1]])})
    with torch.no_grad():
        logits = module(SOUND[:1, :85], torch.tensor([85]))
        frames = logits.shape[1]
        logp = logits.log_softmax(-1)[0]
        paths = torch.cartesian_prod(*[torch.arange(4)] * frames)
        total = torch.stack([logp[torch.arange(frames), path].sum() for path in paths if _said(path) == [1, 2]])
        loss, _ = objective(batch)
    assert batch["weight"].tolist() == [2.0]
    torch.testing.assert_close(loss, -total.logsumexp(0), rtol=1e-4, atol=1e-4)


def _said(path: torch.Tensor) -> list[int]:
    return [int(t) for t in torch.unique_consecutive(path) if t]


def test_clusters_say_the_same_of_the_same_sound() -> None:
    module = parity.ours("wav2vec2", **{**OURS, "kind": "hubert", "head": "clusters", "clusters": 7})[1]
    a, b = (make("masked_clusters", module, {"seed": seed}) for seed in (0, 1))
    length = module.config.frames(700)
    one = a.clusters(SOUND, length)
    assert torch.equal(one, a.clusters(SOUND, length)) and not torch.equal(one, b.clusters(SOUND, length))
    assert one.shape == (2, length) and len(one.unique()) > 2
    assert (a.clusters(3 * SOUND, length) == one).float().mean() > 0.95    # loudness is no difference


def test_k_means_finds_what_lies_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    points = (middles[:, None] + 0.3 * torch.randn(3, 40, 2, generator=rng)).flatten(0, 1)
    found = k_means(points, 3, seed=1)
    assert torch.cdist(found, middles).min(0).values.max() < 0.3 and torch.equal(found, k_means(points, 3, seed=1))


def test_a_second_round_hides_clusters_of_the_first(corpus: Corpus) -> None:
    small = {**QUICK, **WAVES, "train.steps": 2, "data.corpus": str(corpus.folder)}
    first = pretrain(edit(recipes()["hubert"](), {**small, "model.clusters": 8}), corpus.folder.parent / "first")
    run = edit(recipes()["hubert"](), {**small, "model.clusters": 6, "objective.teacher": str(first)})
    log = read_log(pretrain(run, corpus.folder.parent / "second") / "log.jsonl")
    assert np.isfinite(log[-1]["loss"])
    module = hf.load(corpus.folder.parent / "second").module
    a, b = (make("masked_clusters", module, {"teacher": str(first)}) for _ in range(2))
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(2))
    length = module.config.frames(4000)
    one = a.clusters(sound, length)
    assert one.shape == (2, length) and len(one.unique()) > 1 and not b.fitted
    b.load_state_dict(a.state_dict())                          # as a run that goes on
    assert b.fitted and torch.equal(b.clusters(sound[:1], length), one[:1])
    with pytest.raises(RequestError, match="does not hear the places"):
        make("masked_clusters", parity.ours("wav2vec2", **{**OURS, "kind": "hubert", "head": "clusters"})[1],
             {"teacher": str(first)})


def test_a_class_of_sounds_is_learned(corpus: Corpus) -> None:
    run = trained("spoken", corpus, EAR, **{"train.steps": 30, "model.project": 16,
                                            "objective.changes": {"speed": 0.1}})
    score, = evaluate(Subject.open(run), corpus, ["sound_classes"])
    assert score.baseline is not None and score.chance is not None and score.n == 4
    log = read_log(run / "log.jsonl")
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    with pytest.raises(RequestError, match="writes what it hears"):
        evaluate(Subject.open(run), corpus, ["word_errors"])


def test_words_are_written(corpus: Corpus) -> None:
    run = trained("listen", corpus, EAR, **{"train.steps": 40, "model.decoder_layers": 1, "objective.changes": {}})
    score, = evaluate(Subject.open(run), corpus, ["word_errors"])
    log = read_log(run / "log.jsonl")
    assert log[0]["loss"] > 1.5 > log[-1]["loss"] and score.n == 4 and 0 <= score.value <= 2


def test_without_labels_then_letters(corpus: Corpus) -> None:
    contrast = read_log(trained("wav2vec2", corpus, WAVES, **{"train.steps": 3, "model.codes": 6}) / "log.jsonl")[-1]
    assert 2 <= contrast["used"] <= 12 and np.isfinite(contrast["loss"])
    base = trained("hubert", corpus, WAVES, **{"train.steps": 3, "model.clusters": 8})
    run = trained("letters", corpus, {}, **{"train.steps": 3, "base": str(base)})
    score, = evaluate(Subject.open(run), corpus, ["word_errors"])
    assert score.n == 4
    for name, what in (("masked_clusters", "head over clusters"), ("ctc", "head over letters"),
                       ("speech_contrast", "needs codebooks")):
        with pytest.raises(RequestError, match=what):
            make(name, parity.ours("wav2vec2", **OURS)[1], {})


def test_errors_between_words() -> None:
    assert distance(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert distance([], ["a"]) == distance(["a"], []) == 1
