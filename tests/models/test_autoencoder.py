"""The autoencoders compute what diffusers computes, in its layout, both ways."""
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.models.autoencoder import Config, Model
from tests.models import parity

SMALL = {"block_out_channels": (16, 32, 32), "down_block_types": ("DownEncoderBlock2D",) * 3, "layers_per_block": 1,
         "up_block_types": ("UpDecoderBlock2D",) * 3, "norm_num_groups": 8, "latent_channels": 4, "sample_size": 32}
OURS = {"channels": (16, 32, 32), "blocks": 1, "groups": 8, "latent": 4, "image": 32}
KINDS = {"kl": ("AutoencoderKL", {}), "vq": ("VQModel", {"num_vq_embeddings": 19, "scaling_factor": 1.0})}


def theirs(kind: str) -> Any:
    torch.manual_seed(0)
    name, more = KINDS[kind]
    return parity.perturb(getattr(diffusers, name)(**SMALL, **more))


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(4))


def both(kind: str, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Their latent and their image of it."""
    if kind == "kl":
        latent = model.encode(images).latent_dist.mode()
        return latent * model.config.scaling_factor, model.decode(latent).sample
    given = model.encode(images).latents
    return model.quantize(given)[0], model.decode(given).sample


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_their_folder_and_back(kind: str, tmp_path: Path) -> None:
    model, images = theirs(kind), pictures()
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    latent, picture = both(kind, model, images)
    parity.close(loaded.module.encode(images), latent)
    parity.close(loaded.module.decode(latent), picture)
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(tmp_path / "in"), Tensors.open(tmp_path / "out")
    assert sorted(before) == sorted(after) and all(torch.equal(before[k], after[k]) for k in before)
    back = getattr(diffusers, KINDS[kind][0]).from_pretrained(tmp_path / "out")
    parity.close(both(kind, back, images)[1], picture)
    assert hf.load(tmp_path / "out").config == loaded.config


@torch.no_grad()
def test_noise_draws_the_latent() -> None:
    model = parity.ours("autoencoder", **OURS)[1]
    images = pictures()
    mean, spread = model.statistics(images)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    again, a, b = model(images, noise)
    assert torch.equal(a, mean) and torch.equal(b, spread)
    parity.close(again, model.decoder(model.after(mean + (0.5 * spread).exp() * noise)))
    parity.close(model(images)[0], model.decode(model.encode(images)))


def test_the_codebook_gives_the_nearest_vector_and_its_gradient_passes_through() -> None:
    model = parity.ours("autoencoder", **OURS, kind="vq", codes=7, scale=1.0)[1]
    images = pictures()
    again, given, nearest = model(images)
    flat, vectors = given.detach().permute(0, 2, 3, 1).flatten(0, 2), model.codebook.vectors.detach()
    best = ((flat[:, None] - vectors) ** 2).sum(-1).argmin(1)
    numbers = model.tokens(images)
    assert torch.equal(numbers.flatten(), best)
    parity.close(model.picture(numbers), again.detach())
    again.sum().backward()
    assert model.before.weight.grad.abs().sum() > 0 and model.codebook.vectors.grad is None
    parity.close(nearest.detach(), model.codebook.look_up(numbers).detach())


def test_a_dvae_mixes_vectors_by_a_relaxed_draw_and_is_written_and_read(tmp_path: Path) -> None:
    model = parity.ours("autoencoder", **OURS, kind="dvae", codes=7, scale=1.0)[1]
    images = pictures()
    again, log, mixed = model(images)
    assert log.shape == (2, 7, 6, 10) and torch.equal(log.argmax(1), model.tokens(images))
    parity.close(log.exp().sum(1), torch.ones(2, 6, 10))
    parity.close(model.picture(model.tokens(images)).detach(), again.detach())
    noise = -torch.empty(2, 7, 6, 10).exponential_(generator=torch.Generator().manual_seed(1)).log()
    soft, cold = (model(images, noise, torch.tensor(t))[2] for t in (1.0, 1e-7))
    drawn = (log + noise).argmax(1)                            # at no temperature the draw is one vector of the book
    parity.close(cold.detach(), model.codebook.look_up(drawn).detach())
    share = ((log + noise).softmax(1)[:, :, 0, 0] @ model.codebook.vectors).detach()
    parity.close(soft[:, :, 0, 0].detach(), share)
    soft.sum().backward()
    assert model.before.weight.grad.abs().sum() > 0 and model.codebook.vectors.grad.abs().sum() > 0
    hf.save(tmp_path, "autoencoder", model.config, model)
    loaded = hf.load(tmp_path)
    assert loaded.config == model.config and torch.equal(loaded.module.tokens(images), model.tokens(images))


def test_shapes_and_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of groups"):
        Config(channels=(30,), groups=8)
    with pytest.raises(AssertionError, match="kind=vq"):
        Model(Config(**OURS)).tokens(pictures())
    model = theirs("kl")
    model.register_to_config(act_fn="relu")
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="act_fn = 'relu' is not supported"):
        hf.load(tmp_path)
