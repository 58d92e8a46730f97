"""CLAP computes what transformers computes: both towers, shifted windows, padding, both ways."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.models.clap import Config, Model, Text
from tests.models import parity

END = 1
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 97,
        "max_position_embeddings": 14, "hidden_dropout_prob": 0.0}
AUDIO = {"num_mel_bins": 16, "spec_size": 32, "patch_size": 2, "patch_stride": [2, 2], "window_size": 4,
         "depths": [2, 2], "num_attention_heads": [2, 4], "patch_embeds_hidden_size": 12, "hidden_size": 24}
OURS: dict[str, Any] = {
    "vocab": 97, "context": 12, "end": END, "text": {"dim": 24, "layers": 2, "heads": 4, "hidden": 40}, "rate": 8000,
    "seconds": 0.5, "fft": 0, "top": 0.0, "decibels": False, "mels": 16, "spec": 32, "patch": 2,
    "dim": 12, "depths": (2, 2), "heads": (2, 4), "window": 4, "project": 20}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three sounds of 50 frames, fewer than the 64 that fit; four texts that end at different places."""
    tokens = torch.randint(2, 97, (4, 12), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((12, 3, 11, 7)):
        tokens[row, end:] = END
    return torch.randn(3, 16, 50, generator=torch.Generator().manual_seed(4)), tokens


def theirs(model: Any) -> torch.Tensor:
    frames, tokens = inputs()
    said = model(input_features=frames.mT[:, None], input_ids=tokens, attention_mask=(tokens != END).long())
    return torch.cat([said.logits_per_audio, said.logits_per_text.T])


def ours(model: Any) -> torch.Tensor:
    both = model(*inputs())
    return torch.cat([model.logits(*both), model.text_logits(*both)])


def test_both_towers_both_ways(tmp_path: Path) -> None:
    model = parity.theirs("ClapModel", "ClapConfig", text_config=TEXT, audio_config=AUDIO, projection_dim=20)
    with torch.no_grad():
        model.logit_scale_t.add_(0.3)                          # the two scales are told apart
        model.audio_model.audio_encoder.batch_norm.running_mean.add_(0.2)
    loaded = parity.read_theirs(model, tmp_path / "a", ours, theirs)
    assert (loaded.family, loaded.config.context, loaded.config.sides) == ("clap", 12, [16, 8])
    parity.theirs_reads("clap", OURS, tmp_path / "b", ours, theirs, "AutoModel")


@torch.no_grad()
def test_windows_see_neighbours_only_and_shifts_join_them() -> None:
    model = parity.ours("clap", **OURS)[1]
    first, second = model.audio.stages[0].blocks
    x = torch.randn(1, 16, 16, 12, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 5, 5, 0] += 1.0              # one number: a norm takes out what all have
    moved = [(layer(changed) - layer(x)).abs().sum(-1)[0] > 0 for layer in (first, second)]
    assert moved[0].nonzero().min() == 4 and moved[0].nonzero().max() == 7, "window 4 to 7"
    assert moved[1].nonzero().min() == 2 and moved[1].nonzero().max() == 5, "shifted by two: 2 to 5"
    corner = x.clone()
    corner[0, 0, 0, 0] += 1.0
    assert ((second(corner) - second(x)).abs().sum(-1)[0] > 0).nonzero().max() == 1, "no neighbour across the edge"


def test_shapes_that_do_not_exist() -> None:
    for fields, what in (({"depths": (2, 2, 2)}, "one number a stage"), ({"heads": (2, 5)}, "multiple of its heads"),
                         ({"mels": 15}, "multiple of mels"), ({"window": 5}, "do not divide into windows")):
        with pytest.raises(ValueError, match=what):
            Config(**{**OURS, "text": Text(), **fields})
    with pytest.raises(RequestError, match="16 bands of at most 64 frames"):
        Model(parity.ours("clap", **OURS)[0]).embed_audio(torch.zeros(1, 16, 65))
