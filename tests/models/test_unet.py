"""The U-Net computes what diffusers computes, with and without a condition, in its layout, both ways."""
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.unet import Config
from tests.models import parity

SMALL = {"block_out_channels": (16, 32, 32), "layers_per_block": 2, "norm_num_groups": 8, "sample_size": 16,
         "in_channels": 3, "out_channels": 3}
PIXEL = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")}
CROSS = {"down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 24}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("UNet2DModel", {**PIXEL, "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1,
                             "downsample_padding": 0}),
    "heads": ("UNet2DModel", {**PIXEL, "attention_head_dim": 8, "num_class_embeds": 5}),
    "churches": ("UNet2DModel", {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D",
                                                      "ResnetDownsampleBlock2D"),
                                 "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
                                 "attention_head_dim": 8, "downsample_type": "resnet", "upsample_type": "resnet",
                                 "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}),
    "sd1": ("UNet2DConditionModel", {**CROSS, "attention_head_dim": 4}),
    "sd2": ("UNet2DConditionModel", {**CROSS, "attention_head_dim": 4, "use_linear_projection": True,
                                     "transformer_layers_per_block": 2, "out_channels": 6}),
    "unclip": ("UNet2DConditionModel", {**CROSS, "attention_head_dim": 4, "class_embed_type": "simple_projection",
                                        "projection_class_embeddings_input_dim": 24}),
}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return (torch.randn(2, 3, 16, 24, generator=generator), torch.tensor([3.0, 871.0]),
            torch.randn(2, 7, 24, generator=generator))


def called(case: str, model: Any) -> torch.Tensor:
    images, time, condition = inputs()
    if case == "unclip":
        return model(images, time, condition[:, :1], class_labels=condition[:, 0]).sample
    if "sd" in case:
        return model(images, time, condition).sample
    return model(images, time, *([torch.tensor([4, 0])] if case == "heads" else [])).sample


def ours(case: str, module: torch.nn.Module) -> torch.Tensor:
    images, time, condition = inputs()
    return module(images, time, condition if "sd" in case else None,
                  labels=torch.tensor([4, 0]) if case == "heads" else None,
                  embedding=condition[:, 0] if case == "unclip" else None)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_their_folder_and_back(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    name, fields = CASES[case]
    model = parity.perturb(getattr(diffusers, name)(**{**SMALL, **fields}))
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    parity.close(ours(case, loaded.module), called(case, model))
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert sorted(before) == sorted(after) and all(torch.equal(before[k], after[k]) for k in before)
    back = getattr(diffusers, name).from_pretrained(tmp_path / "out")
    parity.close(called(case, back), called(case, model))
    assert hf.load(tmp_path / "out").config == loaded.config


@torch.no_grad()
def test_what_is_not_seen_of_a_condition_changes_nothing() -> None:
    shape = {"inputs": 3, "channels": (16, 32), "blocks": 1, "attention": (True, False), "groups": 8, "heads": 4}
    module = parity.ours("unet", **shape, cross=24)[1]
    images, time, condition = inputs()
    seen = torch.arange(7).expand(2, -1) < torch.tensor([[7], [4]])
    got = module(images, time, condition, seen)
    parity.close(got[1:], module(images[1:], time[1:], condition[1:, :4]))
    other = condition.clone()
    other[1, 4:] += 1
    assert torch.equal(module(images, time, other, seen), got)


def test_shapes_and_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one a level"):
        Config(channels=(32, 64))
    with pytest.raises(ValueError, match="multiple of groups"):
        Config(channels=(30, 60), attention=(True, True))
    with pytest.raises(ValueError, match="without classes"):
        Config(embedding=24)
    model = diffusers.UNet2DModel(**{**SMALL, **PIXEL})
    model.register_to_config(resnet_time_scale_shift="ada_group")
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="resnet_time_scale_shift = 'ada_group' is not supported"):
        hf.load(tmp_path)
