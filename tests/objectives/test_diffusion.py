"""The diffusion loss: what is noised, what is wanted, which conditions are dropped, the learned variance."""
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.nn.noise import add, split, wanted
from meristem.objectives.diffusion import Diffusion
from tests.models import parity

UNET = {"inputs": 3, "channels": (16, 32), "blocks": 1, "attention": (False, True), "groups": 8, "heads": 4}


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"images": torch.randint(0, 256, (rows, 3, 8, 8), generator=generator).to(torch.uint8),
            "labels": torch.arange(rows) % 3, "tokens": torch.randint(0, 90, (rows, 8), generator=generator)}


@pytest.mark.parametrize(("target", "schedule"), [("noise", "linear"), ("start", "cosine"), ("flow", "flow"),
                                                  ("velocity", "scaled_linear"), ("flow", "linear")])
@torch.no_grad()
def test_the_loss_by_hand(target: str, schedule: str) -> None:
    torch.manual_seed(0)
    objective = Diffusion(parity.ours("unet", **UNET)[1], target=target, schedule=schedule)
    ready = objective.prepare(batch())
    loss, facts = objective(ready)
    a, s = objective.schedule.scales(ready["time"].long())
    noisy = add(ready["images"], ready["noise"], a, s)
    said = objective.model(noisy, ready["time"])
    want = wanted(target, ready["images"], ready["noise"], a, s)
    torch.testing.assert_close(loss / 4, (said - want).square().mean(), rtol=1e-5, atol=0)
    assert not facts and ready["images"].min() >= -1 and ready["images"].max() <= 1


@torch.no_grad()
def test_min_snr_weighs_every_target_like_the_image() -> None:
    """gamma says how an error of the image counts: min(SNR, gamma), whatever is predicted."""
    torch.manual_seed(0)
    objective = Diffusion(parity.ours("unet", **UNET)[1], gamma=5.0)
    ready = objective.prepare(batch())
    a, s = objective.schedule.scales(torch.tensor([5, 100, 300, 700]))
    noisy = add(ready["images"], ready["noise"], a, s)
    wrong = ready["images"] + 0.3                              # a guess of the image that is off by 0.3 everywhere
    for target in ("noise", "start", "velocity", "flow"):
        objective.target = target
        e = (noisy - a.float().reshape(-1, 1, 1, 1) * wrong) / s.float().reshape(-1, 1, 1, 1)
        said, want = wanted(target, wrong, e, a, s), wanted(target, ready["images"], ready["noise"], a, s)
        got = objective.balance(a, s) * (said - want).square().flatten(1).mean(1)
        torch.testing.assert_close(got.float(), ((a / s).square().clamp(max=5.0) * 0.09).float(), rtol=2e-3, atol=0)


def test_a_share_of_the_labels_is_dropped() -> None:
    torch.manual_seed(0)
    dit = {"inputs": 3, "image": 8, "dim": 32, "layers": 1, "heads": 4, "classes": 3}
    for family, fields, none in (("unet", {**UNET, "classes": 4}, 3), ("dit", dit, 3)):
        objective = Diffusion(parity.ours(family, **fields)[1], drop=0.25)
        labels = objective.prepare(batch(400))["labels"]
        share = float((labels == none).float().mean())
        assert 0.17 < share < 0.33 and set(labels.tolist()) == {0, 1, 2, 3}
        kept = labels != none
        assert torch.equal(labels[kept], batch(400)["labels"][kept])


@torch.no_grad()
def test_captions_and_latents(tmp_path) -> None:
    tower = {"dim": 24, "layers": 1, "heads": 4}
    config, clip = parity.ours("clip", part="text", vocab=97, context=7, text=tower, end=96)
    hf.save(tmp_path / "text", "clip", config, clip)
    config, vae = parity.ours("autoencoder", channels=(16, 32), blocks=1, groups=8, latent=4, image=8)
    hf.save(tmp_path / "vae", "autoencoder", config, vae)
    model = parity.ours("unet", **{**UNET, "inputs": 4, "cross": 24})[1]
    objective = Diffusion(model, drop=0.5, text=str(tmp_path / "text"), autoencoder=str(tmp_path / "vae"))
    assert not any("frozen" in name or "text" in name for name in objective.state_dict())
    torch.manual_seed(0)
    ready = objective.prepare(batch(40))
    assert ready["images"].shape == (40, 4, 4, 4) and ready["condition"].shape == (40, 7, 24)
    torch.testing.assert_close(ready["images"], vae.encode(batch(40)["images"].float() / 127.5 - 1))
    blank = clip.text.features(torch.full((1, 7), 96))
    told = clip.text.features(batch(40)["tokens"][:, :-1])
    dropped = (ready["condition"] - blank).abs().amax((1, 2)) < 1e-6
    assert 8 < int(dropped.sum()) < 32
    torch.testing.assert_close(ready["condition"][~dropped], told[~dropped])
    assert torch.isfinite(objective(ready)[0])


def test_the_learned_variance() -> None:
    """The bound is least where the variance is the true one, and moves nothing but the variance."""
    model = parity.ours("dit", inputs=3, image=8, dim=32, layers=1, heads=4, classes=3)[1]
    objective = Diffusion(model)
    torch.manual_seed(0)
    ready = objective.prepare(batch())
    ready["time"] = torch.tensor([1.0, 50.0, 400.0, 999.0])
    a, s = objective.schedule.scales(ready["time"].long())
    exact = wanted("noise", ready["images"], ready["noise"], a, s)
    best = objective.bound(exact, torch.full_like(exact, -1.0), ready, a, s)
    assert float(best.abs().max()) < 1e-5                      # the mean is right and the variance the posterior's
    assert (objective.bound(exact, torch.full_like(exact, 1.0), ready, a, s) > best - 1e-7).all()
    loss, facts = objective(ready)
    assert float(facts["bound"].detach()) > 0
    loss.backward()
    assert model.out.weight.grad.abs().sum() > 0
    assert split("noise", exact, add(ready["images"], ready["noise"], a, s), a, s)[0].shape == exact.shape


def test_what_cannot_be() -> None:
    model = parity.ours("unet", **UNET)[1]
    for wrong, what in (({"zero_snr": True}, "take velocity"), ({"steps": 1}, "2 or more"),
                        ({"text": "x"}, "model.cross"), ({"target": "velocity", "schedule": "flow"}, "take flow")):
        with pytest.raises(RequestError, match=what):
            Diffusion(model, **wrong)
    with pytest.raises(RequestError, match="no labels"):
        Diffusion(parity.ours("unet", **{**UNET, "classes": 4})[1]).prepare({"images": batch()["images"]})
