"""LoRA around mixtures of experts: attention and shared experts are adapted, routed experts and router stay frozen."""
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from meristem.adapt import lora
from meristem.hub import hf
from meristem.objectives.next_token import NextToken
from tests.models import parity

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asking
FIELDS: dict[str, Any] = {"vocab": 61, "context": 32, "dim": 32, "layers": 2, "heads": 4, "groups": 2, "head_dim": 8,
                          "hidden": 24, "experts": 4, "top_k": 2}
ADAPTED = {"mixtral": 2 * 4, "llama4": 2 * 7}                   # attention's four a layer; the shared expert's three
TOKENS = parity.ids(61, 2, 20)


@pytest.mark.parametrize("family", ADAPTED)
def test_train_save_load_and_merge(family: str, tmp_path: Path) -> None:
    config, module = parity.ours(family, **FIELDS)
    hf.save(tmp_path / "base", family, config, module)
    before = module(TOKENS).detach()
    lora.apply(module, 4, 8.0, seed=1)
    assert torch.equal(module(TOKENS), before)
    assert sum(isinstance(m, lora.LoRA) for m in module.modules()) == ADAPTED[family]
    objective = NextToken(module).train()
    optim = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 0.02)
    for _ in range(3):
        objective({"tokens": TOKENS, "weight": torch.ones(2, 19)})[0].backward()
        optim.step()
    assert all(p.grad is None for n, p in module.named_parameters() if ".experts." in n or ".router." in n)
    module.eval()
    after = module(TOKENS).detach()
    assert (after - before).abs().max() > 1e-2
    lora.save(tmp_path / "adapter", module, family, "hash")
    again = lora.load(tmp_path / "adapter", hf.load(tmp_path / "base").module, family, "hash")
    assert torch.equal(again(TOKENS), after)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(model(TOKENS).logits, after, rtol=0, atol=1e-5)
    torch.testing.assert_close(lora.merge(module)(TOKENS), after, rtol=0, atol=1e-5)
