"""Sounds and texts: the loss is that of their logits, equal texts belong together, a trained model names sounds."""
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.data import tones
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.models.clap import HF
from meristem.objectives.base import make
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain
from tests.models import parity
from tests.models.test_clap import AUDIO, END, OURS, TEXT, inputs


def batch() -> dict[str, torch.Tensor]:
    """Three sounds and a text for each, with the token behind it that training never reads."""
    frames, tokens = inputs()
    return {"mel": frames, "tokens": torch.cat([tokens[:3], torch.full((3, 1), END)], 1)}


@torch.no_grad()
def test_the_loss_is_clips_with_a_scale_for_each_way() -> None:
    model = parity.theirs("ClapModel", "ClapConfig", text_config=TEXT, audio_config=AUDIO, projection_dim=20)
    module = parity.ours("clap", **OURS)[1]
    module.load_state_dict(HF.restore(model.state_dict(), module))
    objective = make("sound_contrast", module, {}).eval()
    given = objective.prepare(batch())
    tokens = given["tokens"][:, :-1]
    said = model(input_features=given["mel"].mT[:, None], input_ids=tokens, attention_mask=(tokens != END).long())
    own = torch.arange(3)                                      # their own `return_loss` asks from texts to sounds twice
    want = (F.cross_entropy(said.logits_per_audio, own) + F.cross_entropy(said.logits_per_text, own)) / 2
    torch.testing.assert_close(objective(given)[0] / 3, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_equal_texts_belong_together() -> None:
    objective = make("sound_contrast", parity.ours("clap", **OURS)[1], {}).eval()
    given = objective.prepare(batch())
    objective.model.scale.fill_(-math.inf)
    objective.model.text_scale.fill_(-math.inf)
    assert float(objective(given)[0]) / 3 == pytest.approx(math.log(3))
    given["tokens"][1] = given["tokens"][0]
    both, facts = objective(given)
    assert float(both) / 3 == pytest.approx(math.log(3)) and float(facts["accuracy"]) == 2.0   # ties: the first text
    objective.model.text_scale.fill_(9.0)
    objective.after_step(0)
    assert float(objective.model.text_scale) == pytest.approx(math.log(100))


def test_words_for_sounds_are_learned(tmp_path: Path) -> None:
    corpus = tones.make(tmp_path / "corpus", {"documents": 40, "syllables": 1})
    run = pretrain(edit(recipes()["clap"](), {
        "train.batch": 8, "train.warmup": 2, "train.context": 8, "train.lr": 5e-3, "train.dtype": "float32",
        "train.steps": 30, "model.dim": 16, "model.depths": [1, 2], "model.spec": 32, "model.mels": 16,
        "model.text": {"dim": 16, "layers": 1, "heads": 2},
        "model.seconds": 0.5, "objective.changes": {}, "data.corpus": str(corpus.folder)}), tmp_path / "run")
    log = read_log(run / "log.jsonl")
    assert log[-1]["loss"] < 0.93 * log[0]["loss"]
    score, = evaluate(Subject.open(run), corpus, ["sound_words"])
    assert score.n == 4 and score.chance is not None and score.baseline is not None
    with pytest.raises(RequestError, match="head of classes of sounds"):
        evaluate(Subject.open(run), corpus, ["sound_classes"])
    with pytest.raises(RequestError, match="set model.name=clap"):
        make("sound_contrast", parity.ours("esm", vocab=33, dim=16, layers=1, heads=2)[1], {})
