"""The losses of autoencoders, term by term."""
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.objectives.reconstruct import Reconstruct
from tests.models import parity

SMALL = {"channels": (16, 32), "blocks": 1, "groups": 8, "latent": 4, "image": 16}


def batch() -> dict[str, torch.Tensor]:
    return {"images": torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)}


def test_kl() -> None:
    objective = Reconstruct(parity.ours("autoencoder", **SMALL)[1], kl=0.5)
    torch.manual_seed(1)
    ready = objective.prepare(batch())
    loss, facts = objective(ready)
    mean, spread = objective.model.statistics(ready["images"])
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * spread).exp()), prior).sum()
    torch.testing.assert_close(facts["latent"], kl, rtol=1e-4, atol=0)
    again = objective.model(ready["images"], ready["noise"])[0]
    torch.testing.assert_close(facts["pixels"] / 3, (again - ready["images"]).abs().mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, facts["pixels"] + 0.5 * facts["latent"])
    assert float(objective.weight(ready)) == 3 and ready["noise"].shape == (3, 4, 8, 8)


def test_vq_sends_the_codebook_to_the_vectors_and_holds_the_vectors_to_the_codebook() -> None:
    objective = Reconstruct(parity.ours("autoencoder", **SMALL, kind="vq", codes=9, scale=1.0)[1], commit=0.25)
    ready = objective.prepare(batch())
    loss, facts = objective(ready)
    _, given, nearest = objective.model(ready["images"])
    distance = (given - nearest).square().mean() * 3
    torch.testing.assert_close(loss, facts["pixels"] + 1.25 * distance, rtol=1e-5, atol=0)
    loss.backward()
    used = torch.zeros(9, dtype=torch.bool)
    used[objective.model.tokens(ready["images"])] = True
    moved = objective.model.codebook.vectors.grad.abs().sum(1) > 0
    assert torch.equal(moved, used)


def test_dvae_cools_and_is_held_near_the_uniform_distribution() -> None:
    objective = Reconstruct(parity.ours("autoencoder", **SMALL, kind="dvae", codes=9, scale=1.0)[1], kl=0.5,
                            coldest=0.25, cooling=2)
    torch.manual_seed(1)
    ready = objective.train().prepare(batch())
    assert ready["noise"].shape == (3, 9, 8, 8) and float(ready["temperature"]) == 1
    loss, facts = objective(ready)
    again, log, _ = objective.model(ready["images"], ready["noise"], ready["temperature"])
    pixels = (again - ready["images"]).abs().mean() * 3
    chosen = torch.distributions.Categorical(logits=log.movedim(1, -1))
    uniform = torch.distributions.Categorical(logits=torch.zeros(9))
    kl = torch.distributions.kl_divergence(chosen, uniform).sum()
    torch.testing.assert_close(facts["latent"], kl, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, pixels + 0.5 * kl, rtol=1e-5, atol=0)
    assert 1 < float(facts["codes"].detach()) / 3 <= 9
    seen = []
    for step in range(3):
        objective.after_step(step)
        seen.append(objective.temperature)
    assert seen == pytest.approx([0.625, 0.25, 0.25]) and int(objective.state_dict()["updates"]) == 3
    assert "noise" not in objective.eval().prepare(batch())
    with pytest.raises(RequestError, match="coldest=0.0"):
        Reconstruct(objective.model, coldest=0.0)


def test_another_family_is_refused() -> None:
    with pytest.raises(RequestError, match="needs an autoencoder"):
        Reconstruct(parity.ours("dit", image=8, dim=32, layers=1, heads=4, classes=3)[1])


@torch.no_grad()
def test_the_scale_that_is_written_gives_latents_of_unit_variance() -> None:
    config, model = parity.ours("autoencoder", **SMALL)
    settled = Reconstruct(model).settled(config, [batch(), batch()])
    model.config = settled
    latents = model.encode(batch()["images"].float() / 127.5 - 1)
    assert float(latents.std()) == pytest.approx(1, abs=0.02) and float(latents.mean()) == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(model.decode(latents), model.decode(model.encode(batch()["images"].float() / 127.5 - 1)))
    vq, model = parity.ours("autoencoder", **{**SMALL, "kind": "vq", "codes": 9})
    assert Reconstruct(model).settled(vq, [batch()]) == vq
