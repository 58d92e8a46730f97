"""Quantised weights in a model folder: the same logits after loading, bit for bit; what does not fit is one line."""
import json

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.core.files import MANIFEST
from meristem.hub import hf, quantised
from meristem.models import gpt2, llama
from meristem.nn.quantise import QuantisedLinear, quantise


def model_of(tied: bool = False, vocab: int = 300) -> llama.Model:
    torch.manual_seed(0)
    made = llama.Model(llama.Config(vocab=vocab, context=64, dim=32, layers=2, heads=4, hidden=64, bias=True,
                                    tied=tied))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("bits", "group", "affine", "where"), [(8, 0, False, ""), (4, 32, True, ""),
                                                               (4, 16, False, r"mlp\.|head")])
def test_a_quantised_model_comes_back_bit_for_bit(tmp_path, tied, bits, group, affine, where):
    module = quantise(model_of(tied), bits, group, affine=affine, where=where)
    hf.save(tmp_path / "m", "llama", module.config, module)
    again = hf.load(tmp_path / "m").module
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens), module(tokens))
    kinds = {name for name, m in module.named_modules() if isinstance(m, QuantisedLinear)}
    assert kinds == {name for name, m in again.named_modules() if isinstance(m, QuantisedLinear)}
    frozen = {n for n, p in again.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in module.named_parameters() if not p.requires_grad} and frozen
    assert hf.identity("llama", again) == hf.identity("llama", module)
    hf.save(tmp_path / "n", "llama", again.config, again)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "n" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_folders_that_do_not_fit_are_one_line(tmp_path):
    module = quantise(model_of(), 4, 32)
    hf.save(tmp_path, "llama", module.config, module)
    (tmp_path / MANIFEST).unlink()
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())

    def refused(match: str, **entry: object) -> None:
        path.write_text(json.dumps({**good, quantised.KEY: {**good[quantised.KEY], **entry}}))
        with pytest.raises(RequestError, match=match):
            hf.load(tmp_path)

    layers, one = good[quantised.KEY]["layers"], "model.layers.0.mlp.up_proj"
    refused("weights quantised by 'gptq' are not read .only 'meristem'.; load the unquantised", quant_method="gptq")
    refused("lists no layers", layers={})
    refused("a layer 'model.layers.7.mlp.up_proj'; did you mean", layers={"model.layers.7.mlp.up_proj": layers[one]})
    refused("must state bits and group", layers={**layers, one: {"bits": 4}})
    refused("8 or 4 bits, not 3", layers={**layers, one: {**layers[one], "bits": 3}})
    refused("up_proj.scale is .*asks for", layers={**layers, one: {**layers[one], "group": 8}})
    refused("up_proj.packed is .*asks for", layers={**layers, one: {**layers[one], "bits": 8}})
    refused("no tensor model.layers.0.mlp.up_proj.low", layers={**layers, one: {**layers[one], "affine": True}})
    refused("up_proj", layers={k: v for k, v in layers.items() if k != one})
    path.write_text(json.dumps({**good, quantised.KEY: "int4"}))
    with pytest.raises(RequestError, match="quantised by 'int4'"):
        hf.load(tmp_path)


def test_a_layer_that_the_format_turns_cannot_travel(tmp_path):
    module = gpt2.Model(gpt2.Config(vocab=50, context=32, dim=32, layers=1, heads=2))
    with pytest.raises(RequestError, match="cannot be saved quantised"):
        hf.save(tmp_path / "m", "gpt2", module.config, quantise(module, 8, where="mlp"))
