"""Published weights see pictures at their own levels: what transformers' processor makes of bytes, from our numbers."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.nn.image import between
from tests.models import parity

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SAM = {"vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
                         "patch_size": 8, "window_size": 2, "global_attn_indexes": [], "output_channels": 16,
                         "mlp_dim": 32, "num_pos_feats": 8},
       "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
       "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}}


@torch.no_grad()
def test_bytes_give_what_their_processor_and_model_give(tmp_path: Path) -> None:
    model = parity.perturb(transformers.SamModel(transformers.SamConfig(**SAM)))
    model.save_pretrained(tmp_path / "theirs")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    process = transformers.ViTImageProcessor(do_resize=False, image_mean=MEAN, image_std=STD)
    process.save_pretrained(tmp_path / "theirs")
    given = process([x.transpose(1, 2, 0) for x in pixels], return_tensors="pt")["pixel_values"]
    want = model.get_image_embeddings(given)
    loaded = hf.load(tmp_path / "theirs")
    parity.close(loaded.module.encode(between(torch.from_numpy(pixels))), want)
    hf.save(tmp_path / "ours", loaded.family, loaded.config, loaded.module)
    again = hf.load(tmp_path / "ours").module
    parity.close(again.encode(between(torch.from_numpy(pixels))), want)
    kept = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    assert kept["image_mean"] == MEAN and kept["image_std"] == STD
    assert again.prompts.conv1.levels is None                  # an earlier mask is no picture


def test_levels_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    model = transformers.SamModel(transformers.SamConfig(**SAM))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": [0.2, 0.2, 0]}))
    with pytest.raises(RequestError, match="a mean and a deviation above 0"):
        hf.load(tmp_path)
