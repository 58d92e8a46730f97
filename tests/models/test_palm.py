"""PaLM against the paper's equations written out, since nobody published one: logits, caches, counts, files."""
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from meristem.core.config import Part, to_dict
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models import palm
from meristem.plan.cost import on_meta
from tests.models import parity

SMALL = {"vocab": 97, "context": 96, "dim": 48, "layers": 3, "heads": 4, "head_dim": 10, "hidden": 100, "theta": 500.0}
ROWS = parity.ids()


def reference(w: dict[str, Tensor], heads: int, size: int, theta: float, ids: Tensor) -> Tensor:
    """Logits [T, V] of one row in fp64 from named weights: section 2 of the paper, position by position."""
    w = {name: t.double() for name, t in w.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt() * weight

    def turn(x: Tensor, position: int) -> Tensor:              # pairs (i, i + size / 2), as complex numbers
        angle = position * theta ** (-2 * torch.arange(size // 2).double() / size)
        turned = torch.complex(x[: size // 2], x[size // 2:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag])

    table = w["model.embed_tokens.weight"]
    stream = [table[i] for i in ids]
    layer = 0
    while (at := f"model.layers.{layer}") + ".input_layernorm.weight" in w:
        normed = [norm(x, w[f"{at}.input_layernorm.weight"]) for x in stream]
        keys = [turn(w[f"{at}.self_attn.k_proj.weight"] @ y, t) for t, y in enumerate(normed)]
        values = [w[f"{at}.self_attn.v_proj.weight"] @ y for y in normed]
        after = []
        for t, (x, y) in enumerate(zip(stream, normed, strict=True)):
            queries = (w[f"{at}.self_attn.q_proj.weight"] @ y).view(heads, size)
            seen = torch.stack(values[: t + 1])
            out = [torch.softmax(torch.stack(keys[: t + 1]) @ turn(q, t) / size**0.5, 0) @ seen for q in queries]
            gate, up = w[f"{at}.mlp.gate_proj.weight"] @ y, w[f"{at}.mlp.up_proj.weight"] @ y
            swish = gate / (1 + (-gate).exp())
            after.append(x + w[f"{at}.self_attn.o_proj.weight"] @ torch.cat(out)
                         + w[f"{at}.mlp.down_proj.weight"] @ (swish * up))
        stream, layer = after, layer + 1
    return torch.stack([table @ norm(x, w["model.norm.weight"]) for x in stream]) / len(stream[0]) ** 0.5


@torch.no_grad()
def test_a_folder_gives_the_papers_equations_and_comes_back_the_same(tmp_path: Path) -> None:
    config, module = parity.ours("palm", **SMALL)
    hf.save(tmp_path / "a", "palm", config, module)
    loaded = hf.load(tmp_path / "a")
    assert loaded.family == "palm" and loaded.config == config
    weights = dict(Tensors.open(tmp_path / "a"))
    assert "lm_head.weight" not in weights and not [name for name in weights if "bias" in name]
    for row, got in zip(ROWS, loaded.module(ROWS), strict=True):
        parity.close(got[:30].double(), reference(weights, 4, 10, 500.0, row[:30]))
    hf.save(tmp_path / "b", "palm", loaded.config, loaded.module)
    again = Tensors.open(tmp_path / "b")
    assert sorted(again) == sorted(weights) and all(torch.equal(again[k], weights[k]) for k in weights)


def test_caches_padding_packing_and_causality() -> None:
    _, module = parity.ours("palm", **SMALL)
    parity.check_cache(module, ROWS)
    parity.check_packing(module, ROWS)
    parity.check_causal(module, ROWS, 97)
    parity.check_greedy(module, ROWS)


def test_transformers_refuses_the_folder_by_name(tmp_path: Path) -> None:
    config, module = parity.ours("palm", **SMALL)
    hf.save(tmp_path, "palm", config, module)
    with pytest.raises(ValueError, match="`palm`"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(("size", "billions"), [("palm-8b", 8.63), ("palm-62b", 62.50), ("palm-540b", 540.35)])
def test_table_1(size: str, billions: float) -> None:
    """The printed digits; the paper's count leaves out the norms' scales, which are below the last digit anyway."""
    module = on_meta(Part("palm", to_dict(palm.SIZES[size])))
    matrices = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    assert round(matrices / 1e9, 2) == pytest.approx(billions)
    assert {"palm-540b": 540_354_281_472}.get(size, matrices) == matrices
    assert {name.rsplit(".", 2)[-2] for name, p in module.named_parameters() if p.ndim == 1} == {"norm"}


@torch.no_grad()
def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    module = palm.Model(palm.Config(vocab=2000, dim=128, layers=4, heads=4))
    for name, want in {"embed": 1.0, "blocks.3.attn.q": 128**-0.5, "blocks.3.attn.o": 128**-0.5,
                       "blocks.1.mlp.down": 512**-0.5}.items():
        assert float(module.get_parameter(f"{name}.weight").std()) == pytest.approx(want, rel=0.03)
    assert float(module(parity.ids(2000)).std()) == pytest.approx(1.0, rel=0.1)       # what 1 / sqrt(n) is for
