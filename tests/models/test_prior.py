"""The prior computes what diffusers' PriorTransformer computes, in its layout, both ways."""
from pathlib import Path

import diffusers
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.prior import Config
from tests.models import parity

SMALL = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 24, "num_embeddings": 7}


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    noisy, caption = torch.randn(2, 2, 24, generator=generator)
    seen = torch.arange(7) < torch.tensor([[7], [4]])
    return noisy, torch.tensor([3.0, 871.0]), caption, torch.randn(2, 7, 24, generator=generator), seen


@torch.no_grad()
def test_their_folder_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = parity.perturb(diffusers.PriorTransformer(**SMALL), size=0.2)
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    want = model(*inputs()[:4], attention_mask=inputs()[4]).predicted_image_embedding
    parity.close(loaded.module(*inputs()), want)
    parity.close(loaded.module.restored(want), model.post_process_latents(want))

    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert sorted(before) == sorted(after) and all(torch.equal(before[k], after[k]) for k in before)
    back = diffusers.PriorTransformer.from_pretrained(tmp_path / "out")
    parity.close(back(*inputs()[:4], attention_mask=inputs()[4]).predicted_image_embedding, want)
    assert hf.load(tmp_path / "out").config == loaded.config


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    module = parity.ours("prior", width=24, text=7, dim=32, layers=2, heads=4)[1]
    noisy, time, caption, condition, seen = inputs()
    other = condition.clone()
    other[1, 4:] += 1
    assert torch.equal(module(noisy, time, caption, other, seen), module(noisy, time, caption, condition, seen))
    assert not torch.equal(module(noisy, time, caption, other), module(noisy, time, caption, condition))


def test_shapes_and_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Config(dim=30, heads=4)
    model = diffusers.PriorTransformer(**SMALL, embedding_proj_dim=12)
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="embedding_proj_dim = 12 is not supported"):
        hf.load(tmp_path)
