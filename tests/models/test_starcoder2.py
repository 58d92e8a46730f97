"""StarCoder2: transformers' numbers both ways, past the edge of the window, with and without one."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.hub import hf
from meristem.models import starcoder2
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
THEIRS: dict[str, dict[str, Any]] = {                          # name -> what differs from SHAPE
    "window": {"sliding_window": 13},
    "one-key": {"sliding_window": 32, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "no-window": {"rope_parameters": {"rope_theta": 999_999.4420358813, "rope_type": "default"}},
    "no-biases": {"use_bias": False, "num_key_value_heads": 4, "norm_epsilon": 1e-3, "sliding_window": 13},
}
SMALL = {"vocab": 97, "context": 32, "dim": 64, "layers": 3, "heads": 4}
ROWS = parity.ids()                                            # 80 positions: past context and every window


def theirs(name: str) -> Any:
    """A random StarCoder2 of transformers."""
    return parity.theirs("Starcoder2ForCausalLM", "Starcoder2Config", **{**SHAPE, **THEIRS[name]})


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=20)
    assert loaded.config.window == (THEIRS[name].get("sliding_window") or 0)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("fields", [
    {"groups": 2, "hidden": 112, "window": 13}, {"theta": 1e6}, {"bias": False, "tied": False, "groups": 1}])
def test_transformers_reads_our_folder(fields: dict[str, Any], tmp_path: Path) -> None:
    parity.theirs_reads("starcoder2", {**SMALL, **fields}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@torch.no_grad()
def test_the_hubs_own_config_is_read(tmp_path: Path) -> None:
    """As the published starcoder2-3b: settings of transformers 4."""
    model = theirs("window")
    model.save_pretrained(tmp_path)
    tree = {"architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0,
            "embedding_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 64,
            "initializer_range": 0.018042, "intermediate_size": 112, "max_position_embeddings": 32,
            "mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-05, "norm_type": "layer_norm",
            "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "residual_dropout": 0.1,
            "rope_theta": 10000.0, "sliding_window": 13, "torch_dtype": "bfloat16",
            "transformers_version": "4.37.0.dev0", "use_bias": True, "use_cache": True, "vocab_size": 97}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    parity.close(hf.load(tmp_path).module(ROWS), model(ROWS).logits)


@pytest.mark.parametrize("window", [0, 13])
def test_cached_and_uncached_decoding_give_the_same_tokens(window: int) -> None:
    _, module = parity.ours("starcoder2", **{**SMALL, "groups": 2, "window": window, "context": 96})
    parity.check_greedy(module, ROWS)


@torch.no_grad()
def test_nothing_beyond_the_window_is_seen_in_one_layer() -> None:
    """Exactly `window` positions: the 13th before the last matters, the 14th does not."""
    _, module = parity.ours("starcoder2", **{**SMALL, "layers": 1, "window": 13})
    last = module(ROWS)[:, -1]
    for back, matters in ((13, False), (12, True)):
        changed = ROWS.clone()
        changed[:, -1 - back] = (changed[:, -1 - back] + 1) % 97
        assert torch.equal(module(changed)[:, -1], last) is not matters


def test_it_starts_as_megatron_does() -> None:
    torch.manual_seed(0)
    module = starcoder2.Model(starcoder2.Config(vocab=500, dim=128, layers=8, heads=4))
    for name, want in {"embed": 128**-0.5, "blocks.3.attn.q": 128**-0.5, "blocks.3.attn.o": 128**-0.5 / 4,
                       "blocks.7.mlp.down": 128**-0.5 / 4}.items():
        assert float(module.get_parameter(f"{name}.weight").detach().std()) == pytest.approx(want, rel=0.03)
