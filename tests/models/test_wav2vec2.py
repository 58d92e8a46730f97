"""wav2vec 2.0 and HuBERT compute what transformers computes: every head, both norms, padding, both ways."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.models.wav2vec2 import Config
from tests.models import parity

THEIRS: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": (8, 12, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 12, "hidden_dropout": 0.0}
BOOKS: dict[str, Any] = {"num_codevectors_per_group": 5, "num_codevector_groups": 2, "codevector_dim": 12,
                         "proj_codevector_dim": 14}
OURS: dict[str, Any] = {"vocab": 23, "dim": 32, "layers": 2, "heads": 4, "hidden": 48, "dims": (8, 12, 16),
                        "strides": (5, 2, 2), "kernels": (10, 3, 2), "reach": 8, "groups": 4, "project": 12}
SOUND = torch.randn(2, 700, generator=torch.Generator().manual_seed(3))
HEARD = torch.tensor([700, 460])
MASK = (torch.arange(700) < HEARD[:, None]).long()
CASES = {"Wav2Vec2Model": ("wav2vec2", "none", "AutoModel"), "Wav2Vec2ForCTC": ("wav2vec2", "ctc", "AutoModelForCTC"),
         "Wav2Vec2ForSequenceClassification": ("wav2vec2", "audio", "AutoModelForAudioClassification"),
         "Wav2Vec2ForPreTraining": ("wav2vec2", "contrast", "AutoModelForPreTraining"),
         "HubertModel": ("hubert", "none", "AutoModel"), "HubertForCTC": ("hubert", "ctc", "AutoModelForCTC"),
         "HubertForSequenceClassification": ("hubert", "audio", "AutoModelForAudioClassification")}


def said(model: Any) -> torch.Tensor:
    out = model(SOUND, attention_mask=MASK)
    if "projected_states" in out:
        return torch.cat([out.projected_states, out.projected_quantized_states], -1)
    return out.last_hidden_state if "last_hidden_state" in out else out.logits


def ours(module: Any) -> torch.Tensor:
    out = module(SOUND, HEARD)
    return torch.cat(out[:2], -1) if isinstance(out, tuple) else out


def real(x: torch.Tensor) -> torch.Tensor:
    """What is no padding."""
    lengths = Config(**OURS).frames(HEARD)
    return x if x.ndim == 2 else x[torch.arange(x.shape[1]) < lengths[:, None]]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("name", [*CASES])
def test_every_head_both_ways(name: str, norm: str, tmp_path: Path) -> None:
    kind, head, auto = CASES[name]
    more = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", "conv_bias": norm == "layer"}
    if norm == "layer" and head in ("ctc", "audio"):
        return                                                 # the heads are the same
    model = parity.theirs(name, "HubertConfig" if kind == "hubert" else "Wav2Vec2Config",
                          **{**THEIRS, **more, **(BOOKS if kind == "wav2vec2" else {})})
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: real(ours(m)), lambda m: real(said(m)))
    assert (loaded.family, loaded.config.kind, loaded.config.head) == ("wav2vec2", kind, head)
    books = {"codes": 5, "code_dim": 12, "project": 14} if head == "contrast" else {}
    fields = {**OURS, **books, "kind": kind, "head": head, "norm": norm, "before": norm == "layer"}
    parity.theirs_reads("wav2vec2", fields, tmp_path / "b", lambda m: real(ours(m)), lambda m: real(said(m)), auto)


@torch.no_grad()
def test_hidden_places_and_lengths() -> None:
    module = parity.ours("wav2vec2", **OURS, kind="hubert", head="clusters")[1]
    shown = module(SOUND)
    hidden = torch.zeros(shown.shape[:2], dtype=torch.bool)
    hidden[:, 3:6] = True
    assert shown.shape == (2, module.config.frames(700), 100)
    assert not torch.allclose(module(SOUND, hidden=hidden), shown)
    other = SOUND.clone()
    other[1, 460:] = 9.0                                       # behind the sound
    whole = module(SOUND * MASK, HEARD)
    lengths = module.config.frames(HEARD)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(module(other), shown)
    assert lengths.tolist() == [module.config.frames(700), module.config.frames(460)] and whole.isfinite().all()


def test_shapes_that_do_not_exist() -> None:
    for fields, what in (({"strides": (5, 2)}, "one number"), ({"heads": 5}, "multiple of heads"),
                         ({"kind": "hubert", "head": "contrast"}, "no head contrast")):
        with pytest.raises(ValueError, match=what):
            Config(**{**OURS, **fields})
