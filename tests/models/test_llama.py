"""Llama and its relatives compute what transformers computes, through files, both ways, past every edge."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.5, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
SLIDING = {"use_sliding_window": True, "sliding_window": 9}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {              # name -> (their class, what differs from SHAPE)
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-multi-head": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-wide-heads": ("Llama", {"head_dim": 24, "rope_theta": 500_000.0}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "llama-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-yarn-mscale": ("Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3, "beta_fast": 4.0,
                                                        "beta_slow": 2.0, "truncate": False}}),
    "llama-yarn-amplitude": ("Llama", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 9}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {**SLIDING, "max_window_layers": 1}),
    "qwen2-layer-types": ("Qwen2", {**SLIDING, "num_hidden_layers": 4,
                                    "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-window-everywhere": ("Qwen3", {"head_dim": 32, **SLIDING, "max_window_layers": 0, "rope_parameters": YARN}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "smollm3-window": ("SmolLM3", {"no_rope_layers": [1, 0, 1], **SLIDING}),
}
ONLY_SHORT = {"llama-dynamic"}          # its angles follow the longest position of a row: see the test below
SMALL = {"vocab": 97, "context": 32, "dim": 64, "layers": 3, "heads": 4}
OURS: dict[str, tuple[str, dict[str, Any]]] = {                # for the way out: name -> (written as, fields)
    "llama": ("Llama", {"groups": 2, "hidden": 112}),
    "llama-tied": ("Llama", {"tied": True, "theta": 1e6}),
    "llama-biases": ("Llama", {"bias": True, "out_bias": True}),
    "llama-linear": ("Llama", {"scaling": {"kind": "linear", "factor": 2.0}}),
    "llama-dynamic": ("Llama", {"scaling": {"kind": "dynamic", "factor": 3.0}}),
    "llama-yarn": ("Llama", {"scaling": {"kind": "yarn", "factor": 4.0, "original": 8, "fast": 8.0,
                                         "truncate": False}}),
    "llama3": ("Llama", {"scaling": {"kind": "llama3", "factor": 8.0, "original": 16, "high": 3.0}, "theta": 100.0}),
    "mistral-window": ("Mistral", {"groups": 1, "window": 5}),
    "qwen2": ("Qwen2", {"bias": True, "mlp_bias": False}),
    "qwen2-window": ("Qwen2", {"bias": True, "window": 7, "windowed": (2,)}),
    "qwen3": ("Qwen3", {"head_dim": 8, "qk_norm": True}),
    "qwen3-window": ("Qwen3", {"qk_norm": True, "window": 7, "windowed": (0, 2), "bias": True, "out_bias": True}),
    "smollm3": ("SmolLM3", {"nope": (1,), "tied": True}),
    "smollm3-window": ("SmolLM3", {"nope": (2,), "window": 6, "windowed": (0,), "mlp_bias": True}),
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
    parity.check_causal(loaded.module, ROWS, 97)
    rows = ROWS[:, :31] if name in ONLY_SHORT else ROWS
    parity.check_cache(loaded.module, rows)
    parity.check_padding(loaded.module, model, rows)
    parity.check_packing(loaded.module, rows, (7, 1, 11))


@pytest.mark.parametrize("name", ["llama", "llama-linear", "llama-yarn", "llama-yarn-mscale", "llama3"])
@torch.no_grad()
def test_angles_agree_at_positions_far_past_every_edge(name: str, tmp_path: Path) -> None:
    """At position 100,000 an angle has 2 decimals in fp32: only frequencies equal to the last bit give equal logits."""
    model = theirs(name)
    model.save_pretrained(tmp_path)
    at = torch.arange(100_000, 100_080).expand(2, -1)
    parity.close(hf.load(tmp_path).module(ROWS, positions=at), model(ROWS, position_ids=at).logits)


@torch.no_grad()
def test_dynamic_scaling_with_a_cache_is_that_of_transformers(tmp_path: Path) -> None:
    """Past the edge, keys keep the angles of the length at which they were cached."""
    model = theirs("llama-dynamic")
    model.save_pretrained(tmp_path)
    want, cache = [], None
    for a, b in ((0, 20), (20, 40), (40, 41), (41, 80)):
        out = model(ROWS[:, a:b], past_key_values=cache, use_cache=True)
        want, cache = [*want, out.logits], out.past_key_values
    got = parity.by_cache(hf.load(tmp_path).module, ROWS, (20, 40, 41))
    parity.close(got, torch.cat(want, 1))


@pytest.mark.parametrize("name", OURS)
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    kind, fields = OURS[name]
    parity.theirs_reads("llama", {**SMALL, **fields}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)
    tree = json.loads((tmp_path / "model" / "config.json").read_text())
    assert tree["architectures"] == [f"{kind}ForCausalLM"]


@pytest.mark.parametrize("name", OURS)
def test_cached_and_uncached_decoding_give_the_same_tokens(name: str) -> None:
    _, module = parity.ours("llama", **{**SMALL, **OURS[name][1], "context": 96})
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


def write(folder: Path, model: Any, **changes: Any) -> Path:
    """A folder of transformers' whose config.json is changed; None removes a key, "null" sets it to null."""
    model.save_pretrained(folder)
    tree = json.loads((folder / "config.json").read_text()) | changes
    tree = {key: None if value == "null" else value for key, value in tree.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize("name", ["llama-linear", "llama-dynamic", "llama-yarn", "llama-yarn-mscale", "llama3"])
@torch.no_grad()
def test_scalings_in_the_words_of_transformers_4_are_read(name: str, tmp_path: Path) -> None:
    """rope_scaling beside rope_theta, and before 4.43 `type` for `rope_type`."""
    model = theirs(name)
    want = model(ROWS).logits
    old = dict(model.config.rope_parameters)
    theta, kind = old.pop("rope_theta"), old.pop("rope_type")
    folder = write(tmp_path, model, rope_parameters=None, rope_theta=theta, rope_scaling={"type": kind, **old})
    parity.close(hf.load(folder).module(ROWS), want)


@torch.no_grad()
def test_what_a_missing_key_means_depends_on_the_kind(tmp_path: Path) -> None:
    mistral = theirs("mistral-window")
    assert hf.load(write(tmp_path / "a", mistral, sliding_window=None)).config.window == 4096
    assert hf.load(write(tmp_path / "b", mistral, sliding_window="null")).config.window == 0
    qwen = hf.load(write(tmp_path / "c", theirs("qwen2-window"), layer_types=None)).config
    assert (qwen.window, qwen.windowed) == (9, (1, 2)), "from max_window_layers on"
    smol = hf.load(write(tmp_path / "d", theirs("smollm3"), no_rope_layers=None, no_rope_layer_interval=None,
                         tie_word_embeddings=None, rope_parameters=None, layer_types=None)).config
    assert (smol.nope, smol.tied, smol.theta) == ((), True, 2e6), "every fourth of three layers"


@pytest.mark.parametrize(("name", "changes", "says"), [
    ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type .*disagree"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "'longrope' is not supported"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": -1.0}}, "factor > 0"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "alpha": 3}}, "alpha = 3 is a setting"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5 is not supported"),
    ("llama", {"sliding_window": 9}, "sliding_window = 9 means nothing"),
    ("mistral-window", {"attention_bias": True}, "attention_bias and mlp_bias mean nothing"),
    ("mistral-window", {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}, "disagree"),
    ("qwen2-window", {"layer_types": ["sliding_attention"]}, "for each layer"),
    ("qwen2-window", {"layer_types": ["chunked_attention"] * 3}, "for each layer"),
    ("qwen2-window", {"use_sliding_window": False}, "window of 0 disagree"),
    ("qwen2-window", {"sliding_window": -4}, "window"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
    ("llama", {"num_hidden_layers": "three"}, "three"),
])
def test_a_setting_that_cannot_be_honoured_is_one_line(name: str, changes: dict[str, Any], says: str,
                                                       tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        hf.load(write(tmp_path, theirs(name), **changes))
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_a_combination_that_transformers_lacks_is_not_written(tmp_path: Path) -> None:
    for fields in ({"qk_norm": True, "nope": (1,)}, {"qk_norm": True, "mlp_bias": True}, {"out_bias": True}):
        config, module = parity.ours("llama", **{**SMALL, **fields})
        with pytest.raises(RequestError, match="none of LlamaForCausalLM, .* computes what this model does"):
            hf.save(tmp_path / "no", "llama", config, module)
    config, module = parity.ours("llama", **{**SMALL, "scaling": {"kind": "dynamic", "factor": 2.0, "original": 8}})
    with pytest.raises(RequestError, match="dynamic scaling begins at the context there"):
        hf.save(tmp_path / "no", "llama", config, module)
