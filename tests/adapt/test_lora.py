"""LoRA: step 0 is the base, merging changes nothing, and peft reads our files as we read peft's."""
import copy
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from torch import nn

from meristem.adapt import lora
from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asking
CONFIG = Config(vocab=61, context=32, dim=32, layers=2, heads=4, groups=2, hidden=48)
TOKENS = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))


def base() -> Model:
    """A small model, the same at every call."""
    model, generator = Model(CONFIG).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():                           # o and down start at zero: move every weight
            p.copy_(p.mean().round() + 0.05 * torch.randn(p.shape, generator=generator))
    return model


def trained(rank: int = 4, where: str = lora.EVERYWHERE) -> nn.Module:
    """A LoRA model whose B is no longer zero."""
    module = lora.apply(base(), rank, 8.0, where, seed=1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(".b"):
                p.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_step_0_is_the_base_and_follows_its_type(dtype: torch.dtype) -> None:
    plain, adapted = compute_in(base(), dtype), compute_in(lora.apply(base(), 4, 8.0), dtype)
    assert len([m for m in adapted.modules() if isinstance(m, lora.LoRA)]) == 14
    out = adapted(TOKENS)
    assert out.dtype == dtype and torch.equal(out, plain(TOKENS))
    assert {p.dtype for p in adapted.parameters()} == {torch.float32}


@torch.no_grad()
def test_merged_equals_unmerged() -> None:
    module = trained()
    before = module(TOKENS)
    assert (before - base()(TOKENS)).abs().max() > 1e-2
    merged = lora.merge(module)
    torch.testing.assert_close(merged(TOKENS), before, rtol=0, atol=1e-5)
    assert merged.state_dict().keys() == base().state_dict().keys()
    assert all(p.requires_grad for p in merged.parameters())


def test_only_the_update_trains() -> None:
    module = lora.apply(base(), 4, 8.0, r".*\.q", seed=1)
    module(TOKENS).square().mean().backward()
    grads = {name for name, p in module.named_parameters() if p.grad is not None}
    assert grads == {f"blocks.{i}.attn.q.{half}" for i in range(2) for half in "ab"}


def test_each_layer_starts_by_its_own_name_and_the_seed() -> None:
    def starts(where: str, seed: int) -> dict[str, torch.Tensor]:
        module = lora.apply(base(), 4, 8.0, where, seed)
        return {name: p.detach() for name, p in module.named_parameters() if name.endswith(".a")}
    few, many, other = starts(r".*\.q", 1), starts(r".*\.(q|v)", 1), starts(r".*\.q", 2)
    name = "blocks.1.attn.q.a"
    assert torch.equal(few[name], many[name]) and not torch.equal(few[name], other[name])
    assert not torch.equal(few[name], few["blocks.0.attn.q.a"])
    assert 0.9 / 32**0.5 < few[name].abs().max() <= 1 / 32**0.5


@pytest.mark.parametrize(("rank", "count"), [(1, 4_718_592), (8, 37_748_736)])
def test_trainable_counts_of_gpt_3(rank: int, count: int) -> None:
    """LoRA paper, table 4 and section 5.5: GPT-3 175B, 96 layers of width 12,288, query and value only."""
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12_288, 12_288) for _ in range(4))
    with torch.device("meta"):
        stack = nn.Sequential(*(Layer() for _ in range(96)))
    lora.apply(stack, rank, 1.0, r".*\.(q|v)")
    assert sum(p.numel() for p in stack.parameters() if p.requires_grad) == count


def theirs(folder: Path) -> transformers.PreTrainedModel:
    """The base as a model of transformers."""
    if not folder.exists():
        hf.save(folder, "llama", CONFIG, base())
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("where", [lora.EVERYWHERE, r"blocks\.1\..*\.(q|down)"])
@torch.no_grad()
def test_peft_reads_our_adapter(where: str, tmp_path: Path) -> None:
    module = trained(where=where)
    lora.save(tmp_path / "adapter", module, "llama", "hash")
    model = peft.PeftModel.from_pretrained(theirs(tmp_path / "base"), str(tmp_path / "adapter"))
    torch.testing.assert_close(model(TOKENS).logits, module(TOKENS), rtol=0, atol=1e-5)
    again = lora.load(tmp_path / "adapter", base(), "llama", "hash")
    assert torch.equal(again(TOKENS), module(TOKENS))


@pytest.mark.parametrize("rslora", [False, True])
@torch.no_grad()
def test_we_read_an_adapter_of_peft(rslora: bool, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "o_proj", "up_proj"], use_rslora=rslora,
                             task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(theirs(tmp_path / "base"), config).eval()
    model.save_pretrained(str(tmp_path / "adapter"))
    module = lora.load(tmp_path / "adapter", base(), "llama", "any")
    assert (module(TOKENS) - base()(TOKENS)).abs().max() > 1e-2
    torch.testing.assert_close(module(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-5)


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"name matches 'blocks.0.attn.qq'; did you mean blocks.0.attn.q"):
        lora.apply(base(), 4, 8.0, "blocks.0.attn.qq")
    with pytest.raises(RequestError, match="not a regular expression"):
        lora.apply(base(), 4, 8.0, "(")
    tied = Model(Config(vocab=61, dim=32, layers=1, heads=4, tied=True))
    with pytest.raises(RequestError, match="head shares its weight"):
        lora.apply(tied, 4, 8.0, "head")
    with pytest.raises(RequestError, match="already has a LoRA"):
        lora.apply(lora.apply(base()))
    with pytest.raises(RequestError, match="no LoRA layers"):
        lora.save(tmp_path / "adapter", base(), "llama", "hash")


def edit(path: Path, **fields: object) -> None:
    """Change fields of a JSON file and drop the manifest that would notice."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    (path.parent / "MANIFEST.json").unlink(missing_ok=True)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    lora.save(folder, trained(), "llama", "00aa", base="runs/base")
    with pytest.raises(RequestError, match=r"trained on the base 00aa, this model is 11bb; .*runs/base"):
        lora.load(folder, base(), "llama", "11bb")
    wider = Model(Config(vocab=61, dim=64, layers=2, heads=4, groups=2, hidden=48))
    with pytest.raises(RequestError, match=r"0.self_attn.q_proj.lora_A.weight is \(4, 32\), .* need \(4, 64\)"):
        lora.load(folder, wider, "llama", "00aa")
    shallow = Model(Config(vocab=61, dim=32, layers=1, heads=4, groups=2, hidden=48))
    with pytest.raises(RequestError, match=r"layers.1.* belongs to no layer of this model; did you mean"):
        lora.load(folder, shallow, "llama", "00aa")
    original = copy.copy((folder / "adapter_model.safetensors").read_bytes())
    (folder / "adapter_model.safetensors").write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(RequestError, match=r"adapter_model.safetensors is damaged"):
        lora.load(folder, base(), "llama", "00aa")
    (folder / "MANIFEST.json").unlink()
    (folder / "adapter_model.safetensors").write_bytes(original[:-10])
    with pytest.raises(RequestError, match=r"adapter_model.safetensors is not a whole safetensors file"):
        lora.load(folder, base(), "llama", "00aa")
    (folder / "adapter_model.safetensors").write_bytes(original)
    edit(folder / "adapter_config.json", lora_bias=True)
    with pytest.raises(RequestError, match=r"rsLoRA and DoRA are supported, not lora_bias = True"):
        lora.load(folder, base(), "llama", "00aa")
