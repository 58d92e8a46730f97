"""Mixtral and Qwen3-MoE compute what transformers computes, through files, both ways; a token routes for itself."""
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.mixtral import Config
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
QWEN = {"num_experts": 6, "moe_intermediate_size": 24, "head_dim": 16}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {              # name -> (their class, what differs from SHAPE)
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "mixtral-window": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 24}),
    "qwen": ("Qwen3Moe", {**QWEN, "num_experts_per_tok": 3, "norm_topk_prob": True}),
    "qwen-mixed": ("Qwen3Moe", {**QWEN, "num_experts_per_tok": 2, "norm_topk_prob": False, "decoder_sparse_step": 2,
                                "num_hidden_layers": 4, "mlp_only_layers": [3], "tie_word_embeddings": True}),
}
SMALL = {"vocab": 97, "context": 32, "dim": 48, "layers": 3, "heads": 4, "hidden": 40, "experts": 4}
OURS: dict[str, dict[str, Any]] = {                            # for the way out: name -> what differs from SMALL
    "mixtral": {"groups": 2, "window": 24},
    "qwen": {"qk_norm": True, "normalise": False, "head_dim": 16, "dense": (0,), "dense_hidden": 56, "tied": True},
}
ROWS = parity.ids()


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    kind, fields = THEIRS[name]
    model = parity.theirs(f"{kind}ForCausalLM", f"{kind}Config", **{**SHAPE, **fields})
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=40)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("name", OURS)
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    parity.theirs_reads("mixtral", {**SMALL, **OURS[name]}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@pytest.mark.parametrize("name", OURS)
def test_cached_and_uncached_decoding_give_the_same_tokens(name: str) -> None:
    _, module = parity.ours("mixtral", **{**SMALL, **OURS[name], "context": 96})
    parity.check_greedy(module, ROWS)


@torch.no_grad()
def test_expert_biases_are_kept_under_a_name_that_no_mixtral_elsewhere_reads(tmp_path: Path) -> None:
    config, module = parity.ours("mixtral", **SMALL, balance_rate=0.001)
    for block in module.blocks:
        block.mlp.bias.normal_()
    hf.save(tmp_path / "model", "mixtral", config, module)
    loaded = hf.load(tmp_path / "model")
    assert loaded.config == config and torch.equal(loaded.module(ROWS), module(ROWS))
    _, plain = parity.ours("mixtral", **SMALL)
    assert not torch.allclose(plain(ROWS), module(ROWS), atol=1e-3), "the biases choose other experts"
    with pytest.raises((ValueError, KeyError), match="balanced"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_the_layout_of_transformers_4_with_every_expert_apart(tmp_path: Path) -> None:
    """On disk an expert is a tensor of its own in both versions; one that is missing is named."""
    model = parity.theirs("MixtralForCausalLM", "MixtralConfig", **SHAPE, num_local_experts=4)
    model.save_pretrained(tmp_path / "in")
    held = {name: t.clone() for name, t in Tensors.open(tmp_path / "in").items()}
    w1 = [held[f"model.layers.1.block_sparse_moe.experts.{e}.w1.weight"] for e in range(4)]
    gate = hf.load(tmp_path / "in").module.blocks[1].mlp.experts.gate
    assert torch.equal(gate, torch.stack(w1)) and gate.shape == (4, 40, 48)
    gone = "model.layers.2.block_sparse_moe.experts.3.w2.weight"
    save_file({name: t for name, t in held.items() if name != gone}, tmp_path / "in" / "model.safetensors")
    with pytest.raises(RequestError, match=f"no tensor {gone} of shape 48x40"):
        hf.load(tmp_path / "in")


def test_a_dense_layer_needs_a_width() -> None:
    with pytest.raises(ValueError, match="layers without experts need dense_hidden"):
        Config(layers=4, dense=(1,))
    with pytest.raises(ValueError, match="dense .* name layers of 4"):
        Config(layers=4, dense=(4,), dense_hidden=8)
