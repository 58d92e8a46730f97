"""Whisper computes what transformers computes: text, features and classes, both ways, and through a cache."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.whisper import Config, sinusoids
from tests.models import parity

THEIRS: dict[str, Any] = {
    "vocab_size": 97, "num_mel_bins": 8, "encoder_layers": 2, "encoder_attention_heads": 4, "decoder_layers": 3,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 40, "encoder_ffn_dim": 48, "d_model": 32,
    "max_source_positions": 15, "max_target_positions": 40, "decoder_start_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2, "bos_token_id": 2, "classifier_proj_size": 12, "begin_suppress_tokens": None}
OURS: dict[str, Any] = {"vocab": 97, "context": 40, "places": 15, "mels": 8, "dim": 32, "layers": 2, "heads": 4,
                        "hidden": 48, "decoder_layers": 3, "decoder_heads": 2, "decoder_hidden": 40, "project": 12,
                        "start": 1, "end": 2}
FRAMES = torch.randn(2, 8, 30, generator=torch.Generator().manual_seed(3))
TOKENS = parity.ids(length=20)


def said(model: Any) -> torch.Tensor:
    out = model(input_features=FRAMES, decoder_input_ids=TOKENS)
    return out.last_hidden_state if "last_hidden_state" in out else out.logits


CASES = {"WhisperForConditionalGeneration": ("lm", "AutoModelForSpeechSeq2Seq"),
         "WhisperModel": ("none", "AutoModel"),
         "WhisperForAudioClassification": ("audio", "AutoModelForAudioClassification")}


@pytest.mark.parametrize("name", [*CASES])
def test_every_head_both_ways(name: str, tmp_path: Path) -> None:
    head, auto = CASES[name]
    theirs = (lambda m: m(input_features=FRAMES).logits) if head == "audio" else said
    ours = (lambda m: m(source=FRAMES)) if head == "audio" else (lambda m: m(TOKENS, FRAMES))
    loaded = parity.read_theirs(parity.theirs(name, "WhisperConfig", **THEIRS), tmp_path / "a", ours, theirs)
    assert (loaded.family, loaded.config.head) == ("whisper", head)
    parity.theirs_reads("whisper", {**OURS, "head": head}, tmp_path / "b", ours, theirs, auto)


def test_times_obey_the_rules_of_transformers() -> None:
    """Random logits after random texts: what may follow is what WhisperTimeStampLogitsProcessor allows."""
    from types import SimpleNamespace

    from transformers import WhisperTimeStampLogitsProcessor

    from meristem.generate.listen import Times
    told = SimpleNamespace(eos_token_id=28, no_timestamps_token_id=29, bos_token_id=2, max_initial_timestamp_index=50)
    theirs = WhisperTimeStampLogitsProcessor(told, begin_index=1)          # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    for text in ([], [30], [30, 5], [30, 5, 6], [30, 5, 40], [30, 5, 40, 40], [30, 5, 40, 41, 7], [33, 4, 60, 60, 9]):
        for scale in (1.0, 8.0):
            logits = scale * torch.randn(97, generator=rng)
            want = theirs(torch.tensor([[1, *text]]), logits[None].clone())[0]
            rules = Times(range(30, 97), end=28, plain=29)
            for token in text:
                rules.push(token)
            got = rules.copy().apply(logits)
            assert torch.equal(got.isinf(), want.isinf()), (text, scale)


@torch.no_grad()
def test_the_cache_and_greedy_decoding_are_theirs(tmp_path: Path) -> None:
    model = parity.theirs("WhisperForConditionalGeneration", "WhisperConfig", **THEIRS)
    model.save_pretrained(tmp_path)
    module = hf.load(tmp_path).module
    whole = module(TOKENS, FRAMES)
    cache, memory = module.caches(module.encode(FRAMES), 20), []
    for a, b in ((0, 1), (1, 2), (2, 9), (9, 20)):
        memory.append(module(TOKENS[:, a:b], positions=torch.arange(a, b).expand(2, -1), cache=cache))
    parity.close(torch.cat(memory, 1), whole)
    from meristem.generate.autoregressive import generate
    from meristem.generate.listen import Heard
    made = generate(module, [torch.tensor([1]).numpy()] * 2, length=12, stop={2}, source=Heard(module, FRAMES))
    written = torch.ones(2, 1, dtype=torch.long)
    for _ in range(12):
        said_next = model(input_features=FRAMES, decoder_input_ids=written).logits[:, -1].argmax(-1)
        written = torch.cat([written, said_next[:, None]], 1)
    for one, row in zip(made, written[:, 1:].tolist(), strict=True):
        assert one.tokens == (row[:row.index(2)] if 2 in row else row)


def test_places_are_sinusoids_and_sounds_have_one_length() -> None:
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs
    torch.testing.assert_close(sinusoids(30, 12), theirs(30, 12))
    module = parity.ours("whisper", **OURS)[1]
    with pytest.raises(RequestError, match="hears 8 x 30 frames"):
        module(TOKENS, FRAMES[..., :20])
    with pytest.raises(RequestError, match="after hearing a sound"):
        module(TOKENS)
    with pytest.raises(ValueError, match="multiple of heads"):
        Config(dim=32, heads=5)
    assert not module.encoder.position.weight.requires_grad
