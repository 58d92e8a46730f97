"""GPT-2 and its line: transformers' numbers both ways, the published files' spellings, and a reference of its own."""
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from meristem.core.config import Part, to_dict
from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models import gpt2
from meristem.plan.cost import Cost, on_meta
from tests.models import parity

SHAPE = {"vocab_size": 97, "n_positions": 80, "n_embd": 48, "n_layer": 3, "n_head": 4}
THEIRS: dict[str, dict[str, Any]] = {                          # name -> what differs from SHAPE
    "gpt2": {},
    "untied": {"tie_word_embeddings": False},
    "wide": {"n_inner": 100, "activation_function": "gelu", "layer_norm_epsilon": 1e-3},
}
SMALL = {"vocab": 97, "context": 80, "dim": 48, "layers": 3, "heads": 4}
ROWS = parity.ids()                                            # as long as there are positions


def theirs(name: str) -> Any:
    """A random GPT-2 of transformers."""
    return parity.theirs("GPT2LMHeadModel", "GPT2Config", **{**SHAPE, **THEIRS[name]})


def reference(file: Path, heads: int, ids: Tensor) -> Tensor:
    """Logits [T, V] of one row, from a safetensors file with Hugging Face's names and GPT-2's paper, nothing else."""
    w = {name.removeprefix("transformer."): t.double() for name, t in load_file(file).items()}
    length, width = len(ids), w["wte.weight"].shape[1]
    size = width // heads

    def norm(x: Tensor, at: str) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * w[f"{at}.weight"] + w[f"{at}.bias"]

    def dense(x: Tensor, at: str) -> Tensor:                   # Conv1D: the weight is [inputs, outputs]
        return x @ w[f"{at}.weight"] + w[f"{at}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = w["wte.weight"][ids] + w["wpe.weight"][:length]
    layer = 0
    while f"h.{layer}.ln_1.weight" in w:
        at = f"h.{layer}"
        q, k, v = dense(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").split(width, dim=1)
        out = []
        for h in range(heads):
            head = slice(h * size, (h + 1) * size)
            score = q[:, head] @ k[:, head].T / math.sqrt(size)
            for t in range(length):
                score[t, t + 1:] = -math.inf
            share = (score - score.max(1, keepdim=True).values).exp()
            out.append(share / share.sum(1, keepdim=True) @ v[:, head])
        x = x + dense(torch.cat(out, 1), f"{at}.attn.c_proj")
        x = x + dense(gelu(dense(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")), f"{at}.mlp.c_proj")
        layer += 1
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits, least=39)
    parity.check_cache(loaded.module, ROWS)
    parity.check_padding(loaded.module, model, ROWS)
    parity.check_packing(loaded.module, ROWS)
    parity.check_causal(loaded.module, ROWS, 97)


@pytest.mark.parametrize("fields", [{}, {"tied": False, "hidden": 64, "activation": "gelu"}])
def test_transformers_reads_our_folder(fields: dict[str, Any], tmp_path: Path) -> None:
    parity.theirs_reads("gpt2", {**SMALL, **fields}, tmp_path, lambda m: m(ROWS), lambda m: m(ROWS).logits)


@torch.no_grad()
def test_a_file_with_hugging_face_names_gives_the_logits_of_an_independent_reference(tmp_path: Path) -> None:
    theirs("gpt2").save_pretrained(tmp_path)
    logits = hf.load(tmp_path).module(ROWS)
    for row, got in zip(ROWS, logits, strict=True):
        parity.close(got.double(), reference(tmp_path / "model.safetensors", 4, row))


@torch.no_grad()
def test_the_hubs_own_files_have_no_prefix_and_carry_masks(tmp_path: Path) -> None:
    """As the published gpt2: saved from the body alone, with its causal masks, and settings of the year 2019."""
    model = theirs("gpt2")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 80, 80) for i in range(3)}
    save_file(bare, file)
    tree = {"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 96, "embd_pdrop": 0.1, "eos_token_id": 96, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 80, "n_embd": 48, "n_head": 4, "n_layer": 3,
            "n_positions": 80, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 97}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    parity.close(hf.load(tmp_path).module(ROWS), model(ROWS).logits)
    save_file({**bare, "h.0.attn.extra": torch.ones(2)}, file)
    with pytest.raises(RequestError, match="model.safetensors: tensor transformer.h.0.attn.extra"):
        hf.load(tmp_path)


def test_cached_and_uncached_decoding_give_the_same_tokens() -> None:
    _, module = parity.ours("gpt2", **{**SMALL, "context": 96})
    parity.check_greedy(module, ROWS)


def test_without_biases_none_is_left_and_transformers_refuses_it(tmp_path: Path) -> None:
    config, module = parity.ours("gpt2", **SMALL, bias=False)
    assert not [name for name, _ in module.named_parameters() if "bias" in name]
    hf.save(tmp_path, "gpt2", config, module)
    again = hf.load(tmp_path)
    assert again.config == config and torch.equal(again.module(ROWS), module(ROWS))
    with pytest.raises(ValueError, match="gpt2_bias_free"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_more_tokens_than_positions_is_one_line() -> None:
    _, module = parity.ours("gpt2", **{**SMALL, "context": 79})
    with pytest.raises(RequestError, match="80 tokens exceed the 79 positions"):
        module(ROWS)


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    module = gpt2.Model(gpt2.Config(vocab=500, context=64, dim=128, layers=8, heads=4))
    deviation = {"embed": 0.02, "place": 0.01, "blocks.3.attn.q": 0.02, "blocks.3.attn.o": 0.02 / 4,
                 "blocks.7.mlp.up": 0.02, "blocks.7.mlp.down": 0.02 / 4}
    for name, want in deviation.items():
        assert float(module.get_parameter(f"{name}.weight").detach().std()) == pytest.approx(want, rel=0.03)
    assert all(not p.any() for name, p in module.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(("size", "millions"), [               # GPT-3 table D.1
    ("gpt3-small", 125), ("gpt3-medium", 356), ("gpt3-large", 760), ("gpt3-xl", 1320), ("gpt3-2.7b", 2650),
    ("gpt3-6.7b", 6660), ("gpt3-13b", 12850), ("gpt3-175b", 174600)])
def test_gpt3s_table_within_four_thousandths(size: str, millions: int) -> None:
    module = on_meta(Part("gpt2", to_dict(gpt2.SIZES[size])))
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(millions * 1e6, rel=4e-3)


def test_the_cost_is_nanogpts() -> None:
    """transformer_sizing.ipynb: 291,648,307,200 FLOPs for one sequence of 1,024 forward, whole attention square."""
    cost = Cost.of(on_meta(Part("gpt2")), 1024)
    assert 1024 * (cost.linear_flops + cost.attention_flops) == 291_648_307_200
    assert cost.embedding == 1024 * 768 and cost.vocab == 50257
