"""A model told to read further: the same weights under transformers' own scaled positions, and what cannot be."""
from pathlib import Path

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from tests.models import parity

SHAPE = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 20, "pad_token_id": None}
ROWS = parity.ids()                                            # 80 positions: four times the 20 of the config


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
@torch.no_grad()
def test_it_computes_what_transformers_does_with_such_a_config(kind: str, tmp_path: Path) -> None:
    """The library's own class, its weights unscaled, told the same by its config."""
    plain = parity.theirs("LlamaForCausalLM", "LlamaConfig", **SHAPE)
    plain.save_pretrained(tmp_path)
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    rope |= {"original_max_position_embeddings": 20} if kind == "yarn" else {}
    context = 20 if kind == "dynamic" else 80                  # dynamic scaling begins at the context there
    told = parity.theirs("LlamaForCausalLM", "LlamaConfig",
                         **{**SHAPE, "max_position_embeddings": context, "rope_parameters": rope})
    told.load_state_dict(plain.state_dict())
    loaded = hf.load(tmp_path)
    far = hf.stretched(loaded, kind, 4.0)
    assert (far.config.context, loaded.config.context) == (80, 20)
    parity.close(far.module(ROWS), told(ROWS).logits)
    parity.close(loaded.module(ROWS), plain(ROWS).logits)
    assert not torch.allclose(far.module(ROWS), loaded.module(ROWS), atol=1e-3)
    assert hf.identity(far.family, far.module) == hf.identity(loaded.family, loaded.module)
    with pytest.raises(RequestError, match="scaled already"):
        hf.stretched(far, kind, 2.0)


def test_what_cannot_be_stretched_is_refused(tmp_path: Path) -> None:
    for family, fields in (("gpt2", {}), ("llama", {"hidden": 32})):
        config, module = parity.ours(family, vocab=97, context=20, dim=32, layers=1, heads=2, **fields)
        hf.save(tmp_path / family, family, config, module)
    with pytest.raises(RequestError, match="a gpt2 has no rotary positions to scale"):
        hf.stretched(hf.load(tmp_path / "gpt2"), "yarn", 4.0)
    for kind, factor in (("yarm", 4.0), ("yarn", -1.0)):
        with pytest.raises(RequestError, match="scaling"):
            hf.stretched(hf.load(tmp_path / "llama"), kind, factor)
