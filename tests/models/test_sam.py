"""Segment Anything computes what transformers computes, both ways: points, boxes, earlier masks, windows."""
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.hub import hf
from meristem.models.sam import Config, Model
from meristem.nn.segment import PADDING, prompts
from tests.models import parity

THEIRS: dict[str, Any] = {
    "vision_config": {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                      "image_size": 40, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1],
                      "num_pos_feats": 16, "mlp_dim": 48},
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 40, "patch_size": 4, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 40, "num_attention_heads": 2, "iou_head_hidden_dim": 24,
                            "iou_head_depth": 4}}
OURS = {"image": 40, "patch": 4, "dim": 32, "layers": 3, "heads": 4, "hidden": 48, "window": 4, "whole": [1],
        "width": 32, "draft": 8, "decoder_heads": 2, "decoder_hidden": 40, "quality_hidden": 24, "quality_layers": 4}
DRAW = torch.Generator().manual_seed(4)
IMAGES = torch.randn(2, 3, 40, 40, generator=DRAW)
POINTS = torch.randint(0, 40, (2, 3, 2, 2), generator=DRAW).float()
SIGNS = torch.tensor([[[1, 0], [1, 1], [0, 1]], [[1, 1], [0, 0], [1, 0]]])
BOXES = torch.tensor([[[3.0, 4, 20, 30]] * 3, [[0.0, 1, 10, 39]] * 3])
DRAFT = torch.randn(2, 1, 40, 40, generator=DRAW)
ASKED = {"points": (POINTS, SIGNS, None, None), "boxes": (None, None, BOXES, None),
         "both": (POINTS, SIGNS, BOXES, None), "draft": (POINTS, SIGNS, None, DRAFT)}


def whole(masks: Tensor, quality: Tensor) -> Tensor:
    """Both answers as one tensor."""
    return torch.cat([masks.flatten(2), quality], -1)


def ours(case: str):
    points, signs, boxes, draft = ASKED[case]
    return lambda m: whole(*m(IMAGES, *prompts(points, signs, boxes), drafts=draft))


def theirs(case: str):
    points, signs, boxes, draft = ASKED[case]

    def call(model: Any) -> Tensor:
        said = [model(pixel_values=IMAGES, input_points=points, input_labels=signs, input_boxes=boxes,
                      input_masks=draft, multimask_output=many) for many in (False, True)]
        return whole(torch.cat([s.pred_masks for s in said], 2), torch.cat([s.iou_scores for s in said], 2))
    return call


@pytest.mark.parametrize("case", ASKED)
def test_both_ways(case: str, tmp_path: Path) -> None:
    model = parity.theirs("SamModel", "SamConfig", **THEIRS)
    loaded = parity.read_theirs(model, tmp_path / "a", ours(case), theirs(case))
    assert loaded.family == "sam" and loaded.config.hidden == 48 and loaded.config.whole == (1,)
    parity.theirs_reads("sam", OURS, tmp_path / "b", ours(case), theirs(case), "AutoModelForMaskGeneration")


@torch.no_grad()
def test_padding_and_other_prompts_change_nothing() -> None:
    _, model = parity.ours("sam", **OURS)
    seen = model.encode(IMAGES)
    points, signs = prompts(POINTS, SIGNS)
    alone = whole(*model.decode(seen, points[:, 1:2], signs[:, 1:2]))
    padded = torch.cat([points, 7 * torch.ones(2, 3, 2, 2)], 2), torch.cat([signs, torch.full((2, 3, 2), PADDING)], 2)
    parity.close(whole(*model.decode(seen, *padded))[:, 1:2], alone)
    drafts = torch.randn(2, 3, 40, 40)
    some = whole(*model.decode(seen, points, signs, drafts, torch.tensor([[True, False, True]] * 2)))
    parity.close(some[:, 1:2], alone)
    parity.close(some[:, 2:], whole(*model.decode(seen, points[:, 2:], signs[:, 2:], drafts[:, 2:])))
    assert not torch.allclose(some[:, 2:], whole(*model.decode(seen, points[:, 2:], signs[:, 2:])), atol=1e-2)


def test_an_old_file_repeats_defaults_of_text_generation(tmp_path: Path) -> None:
    parity.theirs("SamModel", "SamConfig", **THEIRS).save_pretrained(tmp_path)
    tree = read_json(tmp_path / "config.json")
    tree["vision_config"] |= {"top_k": 50, "length_penalty": 1.0, "max_length": 20}
    write_json(tmp_path / "config.json", tree)
    assert hf.load(tmp_path).config.dim == 32
    for part, key, value in (("vision_config", "use_rel_pos", False), ("vision_config", "new_thing", 3),
                             ("mask_decoder_config", "hidden_size", 64)):
        write_json(tmp_path / "config.json", {**tree, part: {**tree[part], key: value}})
        with pytest.raises(RequestError, match=key):
            hf.load(tmp_path)


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"image": 41}, {"width": 30}, {"heads": 5}, {"quality_layers": 1}):
        with pytest.raises(ValueError):
            Config(**{**OURS, "whole": (1,), **wrong})
    assert Model(Config(**{**OURS, "whole": (1,), "window": 0})).encoder.blocks[0].attn.side == 10
