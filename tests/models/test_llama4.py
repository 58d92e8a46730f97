"""Llama 4's text model computes what transformers computes, through files, both ways, past every chunk."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.llama4 import SIZES, Config
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "intermediate_size_mlp": 56, "head_dim": 16,
         "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
         "max_position_embeddings": 128, "attention_chunk_size": 24, "floor_scale": 10}
THEIRS: dict[str, dict[str, Any]] = {                          # what differs from SHAPE
    "scout": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 16.0,
                                  "low_freq_factor": 1.0, "high_freq_factor": 1.0,
                                  "original_max_position_embeddings": 32}},
    "maverick": {"interleave_moe_layer_step": 2, "use_qk_norm": False, "attn_scale": 0.3},
    "odd": {"num_experts_per_tok": 3, "no_rope_layers": [0, 1, 1, 0], "attn_temperature_tuning": False,
            "moe_layers": [0, 3], "attention_bias": True, "layer_types": ["full_attention"] * 2
            + ["chunked_attention"] * 2, "tie_word_embeddings": True},
}
SMALL = {"vocab": 97, "context": 128, "dim": 48, "layers": 4, "heads": 4, "groups": 2, "head_dim": 16, "hidden": 40,
         "dense_hidden": 56, "experts": 4, "chunk": 24, "warm_floor": 10}
OURS: dict[str, dict[str, Any]] = {
    "scout": {"scaling": {"kind": "llama3", "factor": 16.0, "original": 32, "low": 1.0, "high": 1.0}},
    "maverick": {"every": 2, "unit_qk": False, "top_k": 2, "nope": (1,), "whole": (0, 1)},
    "dense": {"sparse": (), "chunk": 0, "warm": False},
}
ROWS = parity.ids()                                            # 80 positions: past three chunks


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = parity.theirs("Llama4ForCausalLM", "Llama4TextConfig", **{**SHAPE, **THEIRS[name]})
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=40)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("name", OURS)
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    parity.theirs_reads("llama4", {**SMALL, **OURS[name]}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@pytest.mark.parametrize("name", OURS)
def test_cached_and_uncached_decoding_give_the_same_tokens(name: str) -> None:
    _, module = parity.ours("llama4", **{**SMALL, **OURS[name]})
    parity.check_greedy(module, ROWS)


def test_configs_of_transformers_4_are_read(tmp_path: Path) -> None:
    """Intervals instead of lists, the rotary base at the top level, scaling under its old name."""
    model = parity.theirs("Llama4ForCausalLM", "Llama4TextConfig", **{**SHAPE, **THEIRS["scout"]})
    model.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for key in ("moe_layers", "layer_types", "no_rope_layers"):
        tree.pop(key)
    scaling = tree.pop("rope_parameters")
    tree |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling, "no_rope_layers": []}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with torch.no_grad():
        parity.close(hf.load(tmp_path).module(ROWS), model(ROWS).logits)


def test_the_published_layers() -> None:
    scout, maverick = SIZES["llama4-scout"], SIZES["llama4-maverick"]
    assert scout.sparse == tuple(range(48)) and maverick.sparse == tuple(range(1, 48, 2))
    assert scout.nope == scout.whole == maverick.nope == tuple(range(3, 48, 4))


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"nope .*names more than the 2 layers"):
        Config(layers=2, nope=(2,))


EYES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 28,
        "vision_output_dim": 16, "patch_size": 14, "projector_input_dim": 16, "projector_output_dim": 16}


@torch.no_grad()
def test_of_a_model_that_sees_the_text_part_is_read_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    model = parity.theirs("Llama4ForConditionalGeneration", "Llama4Config", text_config={**SHAPE, **THEIRS["scout"]},
                          vision_config=EYES)
    model.save_pretrained(tmp_path / "both", max_shard_size="40KB")
    with pytest.warns(UserWarning, match="weights of multi_modal_projector, vision_model are left out"):
        loaded = hf.load(tmp_path / "both")
    assert loaded.family == "llama4"
    parity.close(loaded.module(ROWS), model.language_model(ROWS).logits)
    hf.save(tmp_path / "text", "llama4", loaded.config, loaded.module)
    tree = json.loads((tmp_path / "text" / "config.json").read_text())
    assert tree["architectures"] == ["Llama4ForCausalLM"] and hf.load(tmp_path / "text").config == loaded.config
    tree = json.loads((tmp_path / "both" / "config.json").read_text())
    (tmp_path / "both" / "config.json").write_text(json.dumps({**tree, "text_config": None}))
    with pytest.raises(RequestError, match="without text_config"):
        hf.load(tmp_path / "both")
