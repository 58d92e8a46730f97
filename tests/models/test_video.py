"""Films: the autoencoder looks back only, its first latent is the first frame's, the transformer is told what is."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.registry import load
from meristem.hub import hf
from meristem.models.video_dit import Config, Model
from tests.models import parity

AUTOENCODER = {"channels": (8, 16, 16), "halve": (True, False), "groups": 4, "latent": 2, "image": 8, "frames": 5}
DIT = {"inputs": 2, "image": 4, "frames": 3, "patch": 2, "dim": 32, "layers": 2, "heads": 4, "cross": 12}


def films(*shape: int) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))


def saved(family: str, fields: dict[str, Any], folder: Path) -> Any:
    config, model = parity.ours(family, **fields)
    hf.save(folder, family, config, model)
    loaded = hf.load(folder)
    assert (loaded.family, loaded.config) == (family, config)
    assert all(torch.equal(a, b) for a, b in zip(loaded.module.state_dict().values(), model.state_dict().values(),
                                                 strict=True))
    return model


@torch.no_grad()
def test_the_autoencoder_looks_back_only(tmp_path: Path) -> None:
    model = saved("video_autoencoder", AUTOENCODER, tmp_path)
    x = films(5, 3, 8, 8)
    z = model.encode(x)
    assert z.shape == (2, *model.config.shape) == (2, 3, 2, 2, 2)
    parity.close(model.encode(x[:, :1]), z[:, :1])
    late = x.clone()
    late[:, 3:] += 1
    moved = model.encode(late)
    assert torch.equal(moved[:, :2], z[:, :2]) and not torch.allclose(moved[:, 2], z[:, 2], atol=1e-3)
    again = model.decode(z)
    assert again.shape == x.shape
    parity.close(model.decode(z[:, :1]), again[:, :1])
    assert torch.equal(model(x)[0], model.paint(model.statistics(x)[0]))


@torch.no_grad()
def test_the_transformer_is_told_the_text_and_what_is_known(tmp_path: Path) -> None:
    model = saved("video_dit", DIT, tmp_path)
    x, time, text = films(3, 2, 4, 4), torch.tensor([3.0, 700.0]), films(5, 12)
    got = model(x, time, text)
    assert got.shape == x.shape
    known = torch.tensor([[True, False, False], [False] * 3])
    told = model(x, time, text, known)
    assert torch.equal(told[1], got[1]) and not torch.allclose(told[0], got[0], atol=1e-3)
    assert not torch.allclose(model(x, time, text + 1), got, atol=1e-3)
    late = x.clone()
    late[:, 2] += 1
    assert not torch.allclose(model(late, time, text)[:, 0], got[:, 0], atol=1e-4), "every frame sees every other"
    fresh = Model(Config(**DIT))
    assert not fresh(x, time, text).any(), "begins at zero"


@torch.no_grad()
def test_squares_go_back_to_their_places() -> None:
    """Without layers, position and modulation the network is a map of each square by itself."""
    model = parity.ours("video_dit", **{**DIT, "layers": 1})[1]
    model.blocks[0].table.zero_()
    model.modulation.weight.zero_()
    model.modulation.bias.zero_()
    model.blocks[0].look.o.weight.zero_()
    model.blocks[0].look.o.bias.zero_()
    x, time, text = films(3, 2, 4, 4), torch.tensor([3.0, 700.0]), films(5, 12)
    other = x.clone()
    other[:, 1, :, 2:, :2] += 1
    changed = (model(other, time, text) != model(x, time, text)).any(2)
    where = torch.zeros(3, 4, 4, dtype=torch.bool)
    where[1, 2:, :2] = True
    assert torch.equal(changed.all(0) | changed.any(0), where)


@torch.no_grad()
def test_towers_of_films_tell_their_order(tmp_path: Path) -> None:
    tower = {"dim": 16, "layers": 1, "heads": 2}
    fields = {"vocab": 50, "context": 8, "image": 8, "patch": 4, "frames": 4, "project": 8, "text": tower,
              "vision": tower, "end": 0}
    model = saved("clip", fields, tmp_path)
    x = films(4, 3, 8, 8)
    got = model.embed_images(x)
    assert not torch.allclose(model.embed_images(x.flip(1)), got, atol=1e-3)
    model.vision.time.weight.zero_()
    parity.close(model.embed_images(x.flip(1)), model.embed_images(x))


def test_shapes_that_cannot_be() -> None:
    every = {"video_autoencoder": (AUTOENCODER, {"frames": 6}, {"halve": (True,)}, {"groups": 3}),
             "video_dit": (DIT, {"heads": 5}, {"patch": 3})}
    for family, (right, *wrongs) in every.items():
        for wrong in wrongs:
            with pytest.raises(ValueError):
                load("models", family).Config(**{**right, **wrong})
