"""The LSTM against torch.nn.LSTM, and against itself: through its cache, packed, from a file, with weight drop."""
from pathlib import Path

import pytest
import torch
from torch import nn

from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.lstm import Config, Model
from meristem.nn.linear import compute_in
from meristem.nn.recurrent import LSTM
from tests.models import parity

FIELDS = {"vocab": 97, "dim": 24, "hidden": 40, "layers": 3, "context": 100}
SHAPES = [{}, {"tied": False}, {"layers": 1}]


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_its_file_is_torch_nn_lstms(tied: bool, tmp_path: Path) -> None:
    config, module = parity.ours("lstm", **FIELDS, tied=tied)
    hf.save(tmp_path, "lstm", config, module)
    state, x = Tensors.open(tmp_path), nn.functional.embedding(parity.ids(), module.embed.weight)
    for i in range(3):
        width = state[f"lstm.{i}.weight_hh_l0"].shape[1]
        layer = nn.LSTM(x.shape[-1], width, batch_first=True)
        layer.load_state_dict({k.removeprefix(f"lstm.{i}."): state[k] for k in state if k.startswith(f"lstm.{i}.")})
        x = layer(x)[0]
    assert width == (24 if tied else 40)
    weight = state["embedding.weight" if tied else "head.weight"]
    parity.close(module(parity.ids()), nn.functional.linear(x, weight, state["head.bias"]))
    again = hf.load(tmp_path)
    assert (again.family, again.config) == ("lstm", config)
    assert hf.identity("lstm", again.module) == hf.identity("lstm", module)


@pytest.mark.parametrize("fields", SHAPES)
def test_the_decoders_interface(fields: dict) -> None:
    _, module = parity.ours("lstm", **{**FIELDS, **fields})
    parity.check_cache(module, parity.ids())
    parity.check_packing(module, parity.ids())
    parity.check_causal(module, parity.ids(), 97)
    parity.check_greedy(module, parity.ids(length=20))


def test_gradients_of_both_paths_agree() -> None:
    torch.manual_seed(0)
    layer, x = LSTM(8, 12), torch.randn(3, 20, 8)
    layer(x).square().sum().backward()
    fused = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x, segments=torch.zeros(3, 20, dtype=torch.long)).square().sum().backward()
    for a, p in zip(fused, layer.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weight_drop_drops_recurrent_weights_once_for_all_steps() -> None:
    torch.manual_seed(0)
    layer, x = LSTM(8, 12, weight_drop=0.5).train(), torch.randn(2, 9, 8)
    one, other = layer(x), layer(x)
    assert torch.equal(one[:, 0], other[:, 0]) and not torch.allclose(one[:, 1:], other[:, 1:])  # zero state at first
    torch.manual_seed(7)
    fused = layer(x)
    torch.manual_seed(7)
    weight = nn.functional.dropout(layer.recurrent.weight, 0.5)
    layer.recurrent.weight.copy_(weight)
    torch.testing.assert_close(layer.eval()(x), fused)
    assert 0.3 < float((weight == 0).float().mean()) < 0.7


@torch.no_grad()
def test_dropout_is_locked_in_time_and_off_in_evaluation() -> None:
    torch.manual_seed(0)
    module = Model(Config(**FIELDS, dropout=1.0))
    gone = module.locked(torch.ones(4, 30, 50), "input") == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone)) and 0.25 < float(gone.float().mean()) < 0.55
    tokens = parity.ids()
    assert not torch.equal(module(tokens), module(tokens))
    module.eval()
    assert torch.equal(module(tokens), module(tokens))
    with pytest.raises(ValueError, match="multiplies rates"):
        Config(dropout=2.5)


@torch.no_grad()
def test_bfloat16_stays_near_fp32() -> None:
    _, module = parity.ours("lstm", **FIELDS)
    want = module(parity.ids())
    compute_in(module, torch.bfloat16)
    got = module(parity.ids())
    assert got.dtype == torch.bfloat16
    assert float((got - want).abs().max()) < 0.03 * float(want.abs().max())
    parity.close(parity.by_cache(module, parity.ids()).float(), got.float(), 0.03)


def test_forget_gates_start_open() -> None:
    module = Model(Config(**FIELDS))
    for layer in module.layers:
        bias = (layer.input.bias + layer.recurrent.bias).detach().view(4, -1)
        assert torch.equal(bias, torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None].expand_as(bias))
