"""T5 against transformers: both versions, padding, a cache, distances past the last bucket, packing, the encoder."""
import json
from pathlib import Path

import pytest
import torch
import transformers

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.t5 import SIZES, Config, Model
from meristem.nn.relative import bucket
from tests.models import parity

SHAPE = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3,
         "num_heads": 3, "decoder_start_token_id": 0, "relative_attention_max_distance": 40}
FIELDS = {"vocab": 97, "dim": 32, "head_dim": 8, "hidden": 48, "layers": 2, "decoder_layers": 3, "heads": 3}
V11 = {"feed_forward": "gated-gelu", "tied": False}
SOURCE, TARGET = parity.ids(length=90), parity.ids(length=70, seed=3)           # both longer than the last bucket
PADDING = (torch.arange(90) >= torch.tensor([[90], [61]])).long()


def ours(module: Model) -> torch.Tensor:
    return module(TARGET, SOURCE, PADDING)


def theirs(model: transformers.PreTrainedModel) -> torch.Tensor:
    return model(input_ids=SOURCE, attention_mask=1 - PADDING, decoder_input_ids=TARGET).logits


def untied(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """What a published v1.1 checkpoint becomes there: transformers 5 ties a new one, whatever its config says."""
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.3)
    return model


@pytest.mark.parametrize("version", ["v1.0", "v1.1", "silu"])
def test_a_folder_that_transformers_wrote(version: str, tmp_path: Path) -> None:
    proj = {"v1.0": "relu", "v1.1": "gated-gelu", "silu": "gated-silu"}[version]
    model = parity.theirs("T5ForConditionalGeneration", "T5Config", **SHAPE, feed_forward_proj=proj,
                          tie_word_embeddings=version == "v1.0")
    loaded = parity.read_theirs(model if version == "v1.0" else untied(model), tmp_path, ours, theirs)
    assert loaded.config.tied == (version == "v1.0") and loaded.config.dropout == 0.1
    published = json.loads((tmp_path / "in" / "config.json").read_text())       # as transformers 4 and the Hub have it
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "dtype"):
        published.pop(key)
    published |= {"tie_word_embeddings": False} if version != "v1.0" else {"architectures": ["T5WithLMHeadModel"]}
    (tmp_path / "in" / "config.json").write_text(json.dumps({**published, "n_positions": 512, "output_past": True}))
    assert hf.load(tmp_path / "in").config == loaded.config


@pytest.mark.parametrize("fields", [{}, V11], ids=["v1.0", "v1.1"])
def test_transformers_reads_our_folder(fields: dict, tmp_path: Path) -> None:
    parity.theirs_reads("t5", {**FIELDS, **fields, "start": 5, "dropout": 0.2}, tmp_path, ours, theirs,
                        "AutoModelForSeq2SeqLM")


def test_the_encoder_alone(tmp_path: Path) -> None:
    model = parity.theirs("T5EncoderModel", "T5Config", **SHAPE, feed_forward_proj="gated-gelu")
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: m.encode(SOURCE, PADDING)[PADDING == 0],
                                lambda m: m(SOURCE, attention_mask=1 - PADDING)[0][PADDING == 0])
    assert loaded.config.head == "none"
    with pytest.raises(RequestError, match="encoder alone"):
        loaded.module(TARGET, SOURCE)
    parity.theirs_reads("t5", {**FIELDS, "head": "none"}, tmp_path / "b", lambda m: m.encode(SOURCE),
                        lambda m: m(SOURCE)[0], "T5EncoderModel")


@pytest.mark.parametrize(("causal", "buckets", "furthest"), [(True, 32, 128), (False, 32, 128), (True, 8, 20)])
def test_buckets_are_those_of_transformers(causal: bool, buckets: int, furthest: int) -> None:
    distance = torch.arange(-300, 301)
    attention = transformers.models.t5.modeling_t5.T5Attention
    want = attention._relative_position_bucket(distance, not causal, buckets, furthest)
    assert torch.equal(bucket(distance, buckets, furthest, causal), want)
    assert set(want.tolist()) <= set(range(buckets))


def test_a_shape_without_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        Config(buckets=6)


@pytest.mark.parametrize("fields", [{}, V11], ids=["v1.0", "v1.1"])
@torch.no_grad()
def test_the_cache_and_its_rows(fields: dict) -> None:
    _, module = parity.ours("t5", **FIELDS, **fields)
    whole = ours(module)
    memory = module.encode(SOURCE, PADDING)
    cache = module.caches(memory, 70, PADDING)
    at = torch.arange(70).expand(2, -1)
    edges = ((0, 1), (1, 40), (40, 41), (41, 70))
    parts = [module(TARGET[:, a:b], positions=at[:, a:b], cache=cache) for a, b in edges]
    parity.close(torch.cat(parts, 1), whole)
    swapped = torch.tensor([1, 0, 1])
    for layer in cache:
        layer.keep(swapped)
    again = module(TARGET[swapped, 69:], positions=at[[0, 0, 0], 69:], cache=cache)
    parity.close(again[:, 0], whole[swapped, 69])
    first, second = (module.caches(memory[i:i + 1], 70, PADDING[i:i + 1]) for i in (0, 1))
    for one, other in zip(first, second, strict=True):
        one.join([other])
    parity.close(module(TARGET, positions=at, cache=first), whole)


@torch.no_grad()
def test_causality_is_exact() -> None:
    _, module = parity.ours("t5", **FIELDS, **V11)
    before, changed = ours(module), TARGET.clone()
    changed[:, 40] = (changed[:, 40] + 1) % 97
    after = module(changed, SOURCE, PADDING)
    assert torch.equal(before[:, :40], after[:, :40]) and not torch.equal(before[:, 40], after[:, 40])


@torch.no_grad()
def test_pairs_packed_into_a_row_are_as_each_alone() -> None:
    _, module = parity.ours("t5", **FIELDS)
    source_segments = torch.repeat_interleave(torch.arange(3), torch.tensor([20, 50, 20])).expand(2, -1)
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([30, 39, 1])).expand(2, -1)
    packed = module(TARGET, SOURCE, source_segments, segments=segments)
    alone = [module(t, s) for t, s in zip(TARGET.split([30, 39, 1], 1), SOURCE.split([20, 50, 20], 1), strict=True)]
    parity.close(packed, torch.cat(alone, 1))


def test_the_initialisation_starts_near_a_uniform_guess() -> None:
    """Raffel's scales: attention scores of about unit variance without a scale, and logits of about unit variance."""
    for fields in ({}, V11):
        torch.manual_seed(0)
        module = Model(Config(vocab=500, dim=128, layers=2, heads=4, head_dim=32, hidden=256, **fields))
        tokens = torch.randint(500, (4, 32))
        with torch.no_grad():
            logits = module(tokens, tokens)
            q, k, _ = module.encoder.blocks[0].attn.project(module.encoder.blocks[0].norm1(module.embed(tokens)),
                                                            None, None)
        assert 0.6 < logits.std() < 1.5
        assert 0.5 < torch.einsum("bthk,bshk->bhts", q, k).std() < 2.0


def test_dropout_acts_in_training_only() -> None:
    _, module = parity.ours("t5", **FIELDS, dropout=0.3)
    with torch.no_grad():
        assert torch.equal(ours(module), ours(module))
        module.train()
        assert not torch.equal(ours(module), ours(module))


def test_sizes_follow_the_tables() -> None:
    assert {name: (c.dim, c.layers, c.heads, c.hidden) for name, c in SIZES.items() if "v1.1" in name} == {
        "t5-v1.1-small": (512, 8, 6, 1024), "t5-v1.1-base": (768, 12, 12, 2048), "t5-v1.1-large": (1024, 24, 16, 2816),
        "t5-v1.1-xl": (2048, 24, 32, 5120), "t5-v1.1-xxl": (4096, 24, 64, 10240)}
