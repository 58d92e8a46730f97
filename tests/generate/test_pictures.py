"""What is asked of a painter: rows that do not depend on their batch, edits that keep what they should, guidance."""
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.generate.denoise import SAMPLERS, agreeing, begun
from meristem.generate.pictures import Diffuser, Wish, by_caption, by_class, by_nothing, paint, stretched
from meristem.nn.noise import Schedule, add, split
from meristem.objectives.diffusion import Diffusion
from tests.models import parity

UNET = {"inputs": 3, "image": 8, "channels": (16, 32), "blocks": 1, "attention": (False, True), "groups": 8, "heads": 4}


def diffuser(schedule: str = "cosine", target: str = "velocity", **more: object) -> Diffuser:
    return Diffusion(parity.ours("unet", **{**UNET, **more})[1], target=target, schedule=schedule).painter(None)


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("sampler", ["ddpm", "dpm_solver"])
def test_a_row_is_a_function_of_the_seed_and_its_number(sampler: str) -> None:
    painter = diffuser()
    wish = Wish(texts=("",) * 5, steps=4, sampler=sampler)
    five = paint(painter, wish)
    assert five.shape == (5, 3, 8, 8) and five.dtype == torch.float32 and five.abs().max() <= 1
    torch.testing.assert_close(paint(painter, Wish(texts=("",) * 2, steps=4, sampler=sampler)), five[:2])
    assert not torch.allclose(five[0], five[1]) and not torch.allclose(
        paint(painter, Wish(texts=("",), steps=4, sampler=sampler, seed=1))[0], five[0])


@pytest.mark.parametrize(("sampler", "schedule", "target"), [
    *((name, "cosine", "velocity") for name in SAMPLERS if name != "euler"), ("euler", "flow", "flow"),
    ("ddim", "linear", "noise")])
def test_an_edit_keeps_what_the_mask_leaves(sampler: str, schedule: str, target: str) -> None:
    painter, mask = diffuser(schedule, target), torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    old = picture()
    new = paint(painter, Wish(texts=("", ""), steps=5, sampler=sampler, how="edit", image=old, mask=mask))
    torch.testing.assert_close(new[:, :, :, :4], old[:, :, :4].expand(2, -1, -1, -1))
    assert (new[:, :, :, 4:] - old[:, :, 4:]).abs().mean() > 0.1
    seen: list[torch.Tensor] = []                              # the network saw the known part with its own noise
    said = agreeing(lambda x, t: seen.append(x) or torch.zeros_like(x), painter.schedule, painter.target,
                    lambda x0: torch.where(mask, x0, old))
    SAMPLERS[sampler](said, torch.randn(1, 3, 8, 8), painter.schedule, 3, target=painter.target)
    assert len(seen) >= 3


@pytest.mark.parametrize(("sampler", "kind"), [*((name, "linear") for name in SAMPLERS if name != "euler"),
                                               ("euler", "flow")])
def test_a_noised_picture_is_walked_back_to_itself_by_a_network_that_knows_it(sampler: str, kind: str) -> None:
    """Image to image: from half of the steps, every sampler gives the picture that a perfect network sees."""
    schedule, old = Schedule(kind, steps=60, of=100), picture()[None].double()
    noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(1)).double()

    def said(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(x, add(old, noise, *schedule.near(float(t[0]))), atol=1e-6, rtol=0)
        return old

    x = begun(sampler, old, noise, schedule, 6)
    got = SAMPLERS[sampler](said if sampler != "ddpm" else (lambda x, t: old), x, schedule, 6, target="start")
    torch.testing.assert_close(got, old, atol=0.2 if sampler == "ddim" else 1e-6, rtol=0)
    assert torch.equal(schedule.kept, Schedule(kind, steps=100).kept[:60])


def test_variations_stay_near_for_little_strength() -> None:
    painter, old = diffuser(), picture()
    gap = [float((paint(painter, Wish(steps=10, how="vary", image=old, strength=s))[0] - old).square().mean())
           for s in (0.05, 0.9)]
    assert gap[0] < 0.5 * gap[1]


def test_guidance_by_class_and_what_is_avoided() -> None:
    painter = diffuser(classes=4, labels=("circle", "square", "ring"))
    plain = {g: paint(painter, Wish(("square",), steps=3, guidance=g)) for g in (1.0, 4.0)}
    assert not torch.allclose(plain[1.0], plain[4.0])
    same = paint(painter, Wish(("square",), steps=3, guidance=4.0, avoid="square"))
    torch.testing.assert_close(same, plain[1.0])
    with pytest.raises(RequestError, match="paints no 'squares'; did you mean square"):
        paint(painter, Wish(("squares",)))
    assert by_class((), 3)(["2", ""])["labels"].tolist() == [2, 3]
    with pytest.raises(RequestError, match="told nothing"):
        by_nothing(["a cat"])


def test_a_picture_in_latents_keeps_its_known_pixels() -> None:
    painter = diffuser(inputs=4, image=4)
    vae = parity.ours("autoencoder", channels=(16, 32), blocks=1, groups=8, latent=4, image=8)[1]
    painter = Diffuser(painter.network, painter.told, painter.schedule, painter.target, (4, 4, 4), autoencoder=vae)
    assert (painter.side, painter.channels) == (8, 3)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3, 5] = True
    assert painter.known(mask).sum() == 15                     # one pixel opens its whole cell
    old = picture()
    new = paint(painter, Wish(steps=2, how="edit", image=old, mask=mask))[0]
    assert torch.equal(new[:, ~mask], old[:, ~mask]) and not torch.equal(new[:, mask], old[:, mask])


def test_enlarging_is_shown_the_small_picture() -> None:
    painter = Diffusion(parity.ours("unet", **{**UNET, "inputs": 6, "outputs": 3})[1], target="velocity", low=2,
                        schedule="cosine").painter(None)
    assert painter.hows == {"enlarge"} and painter.channels == 3 and painter.side == 8
    small = torch.nn.functional.interpolate(picture()[None], size=(2, 2), mode="area")[0]
    got = [paint(painter, Wish(steps=3, how="enlarge", image=image)) for image in (picture(), small, -small)]
    torch.testing.assert_close(got[0], got[1])                 # a larger picture is averaged down first
    assert not torch.allclose(got[1], got[2])
    torch.testing.assert_close(stretched(small[None], 2, 8).mean(), small.mean(), atol=0.2, rtol=0)
    with pytest.raises(RequestError, match="cannot new pictures; it can: enlarge"):
        paint(painter, Wish())


def test_wishes_that_cannot_be() -> None:
    painter = diffuser()
    for wish, what in ((Wish(texts=()), "at least one"), (Wish(how="edit"), "give one"),
                       (Wish(sampler="eulr"), "did you mean euler"), (Wish(how="enlarge"), "it can: edit, new, vary"),
                       (Wish(how="edit", image=picture(), mask=torch.ones(4, 4, dtype=torch.bool)), "4x4")):
        with pytest.raises(RequestError, match=what):
            paint(painter, wish)


def test_a_changed_clean_image_changes_the_noise_with_it() -> None:
    schedule, x = Schedule("cosine"), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for target in ("noise", "start", "velocity", "flow"):
        t = torch.full((2,), 300)
        said = agreeing(lambda x, t: x.tanh(), schedule, target, lambda x0: x0.clamp(-0.1, 0.1))(x, t)
        a, s = schedule.scales(torch.tensor(300))
        x0, e = split(target, said, x, a, s)
        assert x0.abs().max() <= 0.1 + 1e-9
        torch.testing.assert_close(add(x0, e, a, s), x)


def test_captions_are_read_by_the_tower() -> None:
    from meristem.codecs.char import fit
    codec = fit(["a red circle"])
    tower = parity.ours("clip", part="text", vocab=codec.vocab, context=7, end=codec.end,
                        text={"dim": 24, "layers": 1, "heads": 4})[1].text
    condition = by_caption(tower, codec)(["red", "a red circle"])["condition"]
    assert condition.shape == (2, 7, 24)
    torch.testing.assert_close(condition[:1], by_caption(tower, codec)(["red"])["condition"])
