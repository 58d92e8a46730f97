"""Every family computes what transformers computes, through files, both ways, for every shape it covers."""
import json
from pathlib import Path

import pytest
import torch
import transformers

from meristem.core import registry
from meristem.hub import hf
from meristem.hub.tensors import Tensors

SHAPE = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
THEIRS = {                              # name -> (their class, what differs from SHAPE)
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-multi-head": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-wide-heads": ("Llama", {"head_dim": 24, "rope_theta": 500_000.0}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}
SMALL = {"vocab": 97, "context": 32, "dim": 64, "layers": 3, "heads": 4}
OURS = {                                # our sizes for the way out: name -> (family, fields)
    "llama": ("llama", {**SMALL, "groups": 2, "hidden": 112}),
    "llama-tied": ("llama", {**SMALL, "tied": True, "theta": 1e6}),
    "llama-qk-norm": ("llama", {**SMALL, "head_dim": 8, "qk_norm": True}),
}


def tokens() -> torch.Tensor:
    """2 rows of 80 random ids: more than twice the 32 positions the configs name."""
    return torch.randint(0, 97, (2, 80), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def perturb(module: torch.nn.Module) -> torch.nn.Module:
    """Move every weight, so that norms are no longer ones."""
    generator = torch.Generator().manual_seed(2)
    for p in module.parameters():
        p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return module.eval()


def theirs(name: str) -> transformers.PreTrainedModel:
    """A random model of transformers."""
    kind, fields = THEIRS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **fields})
    return perturb(getattr(transformers, f"{kind}ForCausalLM")(config))


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_a_folder_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    model.save_pretrained(tmp_path / "in", max_shard_size="40KB")
    loaded = hf.load(tmp_path / "in")
    torch.testing.assert_close(loaded.module(tokens()), model(tokens()).logits, rtol=0, atol=1e-5)
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert len(before) > 20 and sorted(before) == sorted(after)
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    again = hf.load(tmp_path / "out")
    assert again.config == loaded.config
    assert hf.identity(again.family, again.module) == hf.identity(loaded.family, loaded.module)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    family, fields = OURS[name]
    entry = registry.load("models", family)
    config = entry.Config(**fields)
    module = perturb(entry.Model(config))
    hf.save(tmp_path / "model", family, config, module)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert model.dtype == torch.float32
    torch.testing.assert_close(model(tokens()).logits, module(tokens()), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "back")
    assert hf.load(tmp_path / "back").config == config


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
    torch.testing.assert_close(hf.load(tmp_path).module(tokens()), model(tokens()).logits, rtol=0, atol=1e-5)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    theirs("llama").to(torch.bfloat16).save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.module(tokens()).dtype == torch.bfloat16
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert all(torch.equal(before[k], after[k]) for k in before)


@torch.no_grad()
def test_causality_is_exact() -> None:
    entry = registry.load("models", "llama")
    module = perturb(entry.Model(entry.Config(**OURS["llama"][1])))
    rows = tokens()
    changed = rows.clone()
    changed[:, 50] = (changed[:, 50] + 1) % 97
    a, b = module(rows), module(changed)
    assert torch.equal(a[:, :50], b[:, :50])
    assert not torch.equal(a[:, 50:], b[:, 50:])
