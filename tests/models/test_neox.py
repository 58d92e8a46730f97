"""GPT-NeoX and Pythia: transformers' numbers both ways, parallel and not, with any share of a head turned."""
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from meristem.core.config import from_dict
from meristem.hub import hf
from meristem.models import neox
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 256, "max_position_embeddings": 32}
THEIRS: dict[str, dict[str, Any]] = {                          # name -> what differs from SHAPE
    "neox": {},                                                # 4 of a head's 16 numbers are turned
    "whole-heads": {"rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 500.0, "rope_type": "default"}},
    "in-turn": {"use_parallel_residual": False, "hidden_act": "gelu_fast", "intermediate_size": 100},
    "tied": {"tie_word_embeddings": True, "layer_norm_eps": 1e-3},
}
SMALL = {"vocab": 97, "context": 32, "dim": 64, "layers": 3, "heads": 4}
ROWS = parity.ids()                                            # 80 positions: more than twice the 32 of the configs


def theirs(name: str) -> Any:
    """A random GPT-NeoX of transformers."""
    return parity.theirs("GPTNeoXForCausalLM", "GPTNeoXConfig", **{**SHAPE, **THEIRS[name]})


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=39)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("fields", [{}, {"rotary": 0.5, "theta": 1e6, "parallel": False}, {"tied": True, "hidden": 80}])
def test_transformers_reads_our_folder(fields: dict[str, Any], tmp_path: Path) -> None:
    parity.theirs_reads("neox", {**SMALL, **fields}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@torch.no_grad()
def test_the_hubs_own_files_are_read(tmp_path: Path) -> None:
    """As the published Pythia: rotary settings of transformers 4, masks and angles among the tensors."""
    model = theirs("neox")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    extra = {f"gpt_neox.layers.{i}.attention.{name}": torch.ones(1) for i in range(3)
             for name in ("bias", "masked_bias", "rotary_emb.inv_freq")}
    save_file({**load_file(file), **extra}, file)
    assert "embed_out.weight" in load_file(file)
    tree = {"architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 256, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 32, "model_type": "gpt_neox", "num_attention_heads": 4, "num_hidden_layers": 3,
            "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.24.0", "use_cache": True, "use_parallel_residual": True, "vocab_size": 97}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    parity.close(hf.load(tmp_path).module(ROWS), model(ROWS).logits)


@pytest.mark.parametrize("fields", [{}, {"parallel": False, "rotary": 1.0}])
def test_cached_and_uncached_decoding_give_the_same_tokens(fields: dict[str, Any]) -> None:
    _, module = parity.ours("neox", **{**SMALL, **fields, "context": 96})
    parity.check_greedy(module, ROWS)


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    module = neox.Model(neox.Config(vocab=500, dim=128, layers=8, heads=4))
    deviation = {"embed": math.sqrt(2 / 640), "head": math.sqrt(2 / 640), "blocks.3.attn.q": math.sqrt(2 / 640),
                 "blocks.3.attn.o": 2 / (8 * math.sqrt(128)), "blocks.7.mlp.down": 2 / (8 * math.sqrt(128))}
    for name, want in deviation.items():
        assert float(module.get_parameter(f"{name}.weight").detach().std()) == pytest.approx(want, rel=0.03)
    assert all(not p.any() for name, p in module.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("fields", [{"heads": 5}, {"rotary": 0.2}, {"rotary": 1.5}])
def test_a_shape_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        from_dict(neox.Config, {**SMALL, **fields})
