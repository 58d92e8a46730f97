"""ViT and DINOv2 compute what transformers computes, both ways, at their own and at other image sizes."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.vit import Config, Model
from tests.models import parity

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViT", {**SMALL, "intermediate_size": 80}, {"kind": "vit", "hidden": 80}),
    "dinov2": ("Dinov2", SMALL, {"kind": "dinov2"}),
    "giant": ("Dinov2", {**SMALL, "use_swiglu_ffn": True}, {"kind": "dinov2", "gated": True}),
    "registers": ("Dinov2WithRegisters", {**SMALL, "num_register_tokens": 3}, {"kind": "dinov2", "registers": 3}),
}
OURS = {"image": 28, "patch": 7, "dim": 48, "layers": 3, "heads": 4}
HEADS = {"none": "Model", "image": "ForImageClassification"}
AUTO = {"none": "AutoModel", "image": "AutoModelForImageClassification"}


def pictures(height: int = 28, width: int = 28) -> torch.Tensor:
    """Two random images [2, 3, H, W]."""
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(4))


def theirs(head: str, images: torch.Tensor, **more: Any):
    return lambda model: getattr(model(images, **more), "logits" if head == "image" else "last_hidden_state")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", CASES)
def test_both_ways(case: str, head: str, tmp_path: Path) -> None:
    name, fields, ours = CASES[case]
    labels = {"num_labels": 5} if head == "image" else {}
    model = parity.theirs(name + HEADS[head], f"{name}Config", **fields, **labels)
    images = pictures()
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: m(images), theirs(head, images))
    assert (loaded.family, loaded.config.kind, loaded.config.head) == ("vit", ours["kind"], head)
    parity.theirs_reads("vit", {**OURS, **ours, "head": head}, tmp_path / "b", lambda m: m(images),
                        theirs(head, images), AUTO[head])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_another_image_size_resamples_the_positions(case: str, tmp_path: Path) -> None:
    name, fields, _ = CASES[case]
    model = parity.theirs(f"{name}Model", f"{name}Config", **fields)
    model.save_pretrained(tmp_path)
    images = pictures(42, 63)
    more = {"interpolate_pos_encoding": True} if case == "vit" else {}
    parity.close(hf.load(tmp_path).module(images), theirs("none", images, **more)(model))


@pytest.mark.parametrize("case", ["dinov2", "registers"])
@torch.no_grad()
def test_hidden_patches(case: str, tmp_path: Path) -> None:
    name, fields, _ = CASES[case]
    model = parity.theirs(f"{name}Model", f"{name}Config", **fields)
    model.save_pretrained(tmp_path)
    masked = torch.rand(2, 16, generator=torch.Generator().manual_seed(5)) < 0.4
    images = pictures()
    parity.close(hf.load(tmp_path).module(images, masked),
                 theirs("none", images, bool_masked_pos=masked)(model))


def test_a_skipped_branch_is_made_up_for() -> None:
    torch.manual_seed(0)
    model = Model(Config(kind="dinov2", **OURS, drop_path=0.5)).train()
    branch = model.blocks[0].scale1
    x = torch.ones(4000, 1, 48)
    y = branch(x)[:, 0, 0].detach()
    assert set(y.tolist()) == {0.0, 2.0} and abs(float(y.mean()) - 1) < 0.1
    assert torch.equal(branch.eval()(x), x)


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"image": 30}, {"heads": 5}, {"registers": 2}):
        with pytest.raises(ValueError):
            Config(**{**OURS, **wrong})


def test_a_setting_that_would_change_the_result_is_refused(tmp_path: Path) -> None:
    model = parity.theirs("ViTModel", "ViTConfig", **SMALL, intermediate_size=80)
    model.config.qkv_bias = False
    model.config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="qkv_bias = False is not supported"):
        hf.load(tmp_path)


@torch.no_grad()
def test_where_it_looks(tmp_path: Path) -> None:
    name, fields, _ = CASES["registers"]
    model = parity.theirs(f"{name}Model", f"{name}Config", **fields, attn_implementation="eager")
    model.save_pretrained(tmp_path)
    images = pictures(28, 42)
    found = hf.load(tmp_path).module.looks(images)
    want = model(images, output_attentions=True).attentions[-1][:, :, 0, 4:]
    assert found.shape == (2, 4, 4, 6) and not found.requires_grad
    parity.close(found.flatten(2), want)
