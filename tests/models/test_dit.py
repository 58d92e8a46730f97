"""DiT computes what diffusers computes, in its layout, both ways."""
from pathlib import Path

import diffusers
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.dit import Config, grid
from tests.models import parity

SMALL = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8, "in_channels": 4,
         "out_channels": 8, "num_embeds_ada_norm": 10}
OURS = {"image": 8, "dim": 32, "layers": 3, "heads": 4, "classes": 10}


def theirs() -> diffusers.DiTTransformer2DModel:
    """A random model whose blocks share the embedding of time and class, as every published one does."""
    torch.manual_seed(0)
    model = parity.perturb(diffusers.DiTTransformer2DModel(**SMALL))
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([3.0, 871.0]),
            torch.tensor([9, 10]))


@torch.no_grad()
def test_their_folder_and_back(tmp_path: Path) -> None:
    model, (images, time, labels) = theirs(), inputs()
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    want = model(images, time, labels).sample
    parity.close(loaded.module(images, time, labels), want)
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert sorted(before) == sorted(after) and all(torch.equal(before[k], after[k]) for k in before)
    back = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "out")
    parity.close(back(images, time, labels).sample, want)
    assert hf.load(tmp_path / "out").config == loaded.config


def test_blocks_that_disagree_about_the_time_are_refused(tmp_path: Path) -> None:
    model = theirs()
    with torch.no_grad():
        model.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="differs from the one the config ties it to"):
        hf.load(tmp_path)


@torch.no_grad()
def test_no_label_is_the_label_none() -> None:
    module, (images, time, _) = parity.ours("dit", **OURS)[1], inputs()
    assert torch.equal(module(images, time), module(images, time, torch.tensor([10, 10])))
    assert not torch.equal(module(images, time), module(images, time, torch.tensor([10, 3])))


def test_another_size_is_spread_over_the_same_grid() -> None:
    device = torch.device("cpu")
    fine, coarse = grid(8, 16, 32, 8, device), grid(8, 8, 32, 8, device)
    assert torch.equal(fine.unflatten(0, (8, 16))[:, ::2], coarse.unflatten(0, (8, 8)))


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"image": 9}, {"heads": 5}):
        with pytest.raises(ValueError):
            Config(**{**OURS, **wrong})
