"""Llama and its relatives compute what transformers computes, through files, both ways, past every edge."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.hub import hf
from meristem.hub.tensors import Tensors
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {              # name -> (their class, what differs from SHAPE)
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-multi-head": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-wide-heads": ("Llama", {"head_dim": 24, "rope_theta": 500_000.0}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}
SMALL = {"vocab": 97, "context": 32, "dim": 64, "layers": 3, "heads": 4}
OURS: dict[str, dict[str, Any]] = {                            # for the way out: name -> what differs from SMALL
    "llama": {"groups": 2, "hidden": 112},
    "llama-tied": {"tied": True, "theta": 1e6},
    "llama-qk-norm": {"head_dim": 8, "qk_norm": True},
}
ROWS = parity.ids()                                            # 80 positions: more than twice the 32 of the configs


def theirs(name: str) -> Any:
    """A random model of transformers."""
    kind, fields = THEIRS[name]
    return parity.theirs(f"{kind}ForCausalLM", f"{kind}Config", **{**SHAPE, **fields})


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=20)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("name", OURS)
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    parity.theirs_reads("llama", {**SMALL, **OURS[name]}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@pytest.mark.parametrize("name", OURS)
def test_cached_and_uncached_decoding_give_the_same_tokens(name: str) -> None:
    _, module = parity.ours("llama", **{**SMALL, **OURS[name], "context": 96})
    parity.check_greedy(module, ROWS)


@torch.no_grad()
def test_configs_of_transformers_4_are_read(tmp_path: Path) -> None:
    """Before version 5 the rotary base stood at the top level, key/value heads and head_dim could be absent."""
    model = theirs("llama-multi-head")
    model.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "num_key_value_heads", "head_dim", "dtype", "mlp_bias", "attention_bias"):
        tree.pop(key)
    tree |= {"rope_theta": 10_000.0, "rope_scaling": None, "torch_dtype": "float32", "pretraining_tp": 1}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    parity.close(hf.load(tmp_path).module(ROWS), model(ROWS).logits)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    theirs("llama").to(torch.bfloat16).save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.module(ROWS).dtype == torch.bfloat16
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert all(torch.equal(before[k], after[k]) for k in before)
