"""unCLIP: what the prior and the decoder are told and minimise, and what paints afterwards."""

import pytest
import torch

from meristem.codecs import char
from meristem.core.errors import RequestError
from meristem.data.pictures import captions
from meristem.generate.pictures import Wish, paint
from meristem.generate.unclip import inverted, mixed, turned
from meristem.hub import hf
from meristem.nn.noise import add
from meristem.objectives.prior import Prior
from meristem.objectives.unclip import Unclip
from tests.models import parity

TOWER = {"dim": 16, "layers": 1, "heads": 2}
UNET = {"inputs": 3, "image": 8, "channels": (16, 32), "blocks": 1, "attention": (False, True), "groups": 8, "heads": 2}
PRIOR = {"width": 16, "text": 12, "dim": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory):
    """A codec, a clip, the folders of clip and prior."""
    folder, codec = tmp_path_factory.mktemp("unclip"), char.fit(["a red blue ring"])
    config, clip = parity.ours("clip", vocab=codec.vocab, end=codec.end, context=12, text=TOWER, vision=TOWER, image=8,
                               patch=4, project=16)
    hf.save(folder / "clip", "clip", config, clip, codec)
    config, prior = parity.ours("prior", **PRIOR)
    hf.save(folder / "prior", "prior", config, prior)
    return codec, clip, folder / "clip", folder / "prior"


def batch(codec, rows: int = 3) -> dict[str, torch.Tensor]:
    tokens, lengths = captions(codec, ["red", "a blue ring", "ring"] * (rows // 3), 12)
    images = torch.randint(0, 256, (rows, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return {"images": images, "tokens": torch.from_numpy(tokens).long(), "weight": torch.ones(rows),
            "segments": (torch.arange(12) >= torch.from_numpy(lengths)[:, None]).long()}


@torch.no_grad()
def test_the_prior_predicts_the_clean_vector(parts) -> None:
    codec, clip, folder, _ = parts
    objective = Prior(parity.ours("prior", **PRIOR)[1], clip=str(folder), codec=codec).eval()
    torch.manual_seed(0)
    ready = objective.prepare(batch(codec))
    images = batch(codec)["images"].float() / 127.5 - 1
    torch.testing.assert_close(ready["embedding"], clip.embed_images(images) * 4)      # std is 1/4 of 16 numbers
    captioned = clip.embed_texts(batch(codec)["tokens"][:, :-1], batch(codec)["segments"])
    torch.testing.assert_close(ready["caption"], captioned)
    noisy = add(ready["embedding"], ready["noise"], *objective.schedule.scales(ready["time"].long()))
    said = objective.model(noisy, ready["time"], ready["caption"], ready["condition"], ready["seen"])
    loss, facts = objective(ready)
    torch.testing.assert_close(loss, (said - ready["embedding"]).square().mean(1).sum())
    assert abs(float(facts["cosine"])) <= 3 and objective.picture == (8, 3)
    assert not any("clip" in name or "frozen" in name for name in objective.state_dict())


def test_a_share_of_the_captions_is_that_of_the_empty_one(parts) -> None:
    codec, _, folder, _ = parts
    objective = Prior(parity.ours("prior", **PRIOR)[1], clip=str(folder), drop=0.3, codec=codec).train()
    torch.manual_seed(0)
    with torch.no_grad():
        ready, blank = objective.prepare(batch(codec, 300)), objective.reader.of_texts([""])
    dropped = (ready["caption"] == blank["caption"]).all(1)
    assert 0.2 < float(dropped.float().mean()) < 0.4
    assert torch.equal(ready["seen"][dropped], blank["seen"].expand(int(dropped.sum()), -1))


@torch.no_grad()
def test_the_decoder_is_told_the_vector_of_the_picture(parts) -> None:
    codec, clip, folder, _ = parts
    objective = Unclip(parity.ours("unet", **UNET, cross=16, embedding=16)[1], clip=str(folder), drop=0.25)
    torch.manual_seed(0)
    ready = objective.prepare(batch(codec, 300))
    images = batch(codec, 300)["images"].float() / 127.5 - 1
    dropped = (ready["embedding"] == 0).all(1)
    assert 0.15 < float(dropped.float().mean()) < 0.35
    torch.testing.assert_close(ready["embedding"][~dropped], clip.embed_images(images)[~dropped])
    assert torch.isfinite(objective(ready)[0])


def test_what_paints_afterwards(parts) -> None:
    _, _, clip, prior = parts
    model = parity.ours("unet", **UNET, cross=16, embedding=16)[1]
    painter = Unclip(model, clip=str(clip), prior=str(prior)).painter(None)
    texts, given = ("red", "a blue ring", ""), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images = paint(painter, Wish(texts, seed=3, steps=3))
    assert images.shape == (3, 3, 8, 8) and (painter.side, painter.channels) == (8, 3)
    torch.testing.assert_close(paint(painter, Wish(texts[:2], seed=3, steps=3)), images[:2], atol=1e-4, rtol=0)
    varied = paint(painter, Wish(("",) * 2, how="vary", image=given, steps=3))
    assert varied.shape == (2, 3, 8, 8) and not torch.equal(varied[0], varied[1])
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 2:6] = True
    edited = paint(painter, Wish(("red",), how="edit", image=given, mask=mask, steps=3))[0]
    assert torch.equal(edited[:, ~mask], given[:, ~mask]) and not torch.equal(edited, given)
    for strength in (0.1, 1.0):
        moved = paint(painter, Wish(("red", "ring"), how="edit", image=given, avoid="blue", strength=strength, steps=3))
        assert moved.shape == (2, 3, 8, 8) and not torch.equal(moved[0], moved[1])
    without = Unclip(model, clip=str(clip)).painter(None)      # the caption's own vector
    with torch.no_grad():
        direct = without.vectors(texts, 0)
        torch.testing.assert_close(direct[:2], without.reader.of_texts(texts[:2])["caption"])
    assert not direct[2].any()


@torch.no_grad()
def test_from_one_picture_to_another_and_back_through_the_noise(parts) -> None:
    _, _, clip, _ = parts
    torch.manual_seed(0)
    model = parity.ours("unet", **UNET, cross=16, embedding=16)[1]
    painter = Unclip(model, clip=str(clip)).painter(None)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    vectors = painter.reader.of_pictures(images)
    noise = inverted(painter, images, vectors, 40)
    again = painter.of_vectors(vectors, Wish(steps=40, guidance=1.0), noise)
    assert float((again - images).abs().mean()) < 0.1 < float((noise - images).abs().mean())
    ends = mixed(painter, images[0], images[1], (0.0, 0.5, 1.0), steps=5)
    assert ends.shape == (3, 3, 8, 8)
    near = painter.of_vectors(vectors, Wish(steps=5, guidance=1.0), inverted(painter, images, vectors, 5))
    torch.testing.assert_close(ends[::2], near, atol=1e-4, rtol=0)
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(turned(a, b, 1 / 3), torch.tensor([3**0.5 / 2, 0.5]))
    assert torch.equal(turned(a, a, 0.5), a)


def test_what_cannot_be(parts) -> None:
    codec, _, clip, prior = parts
    unet = parity.ours("unet", **UNET, cross=16, embedding=16)[1]
    with pytest.raises(RequestError, match="objective.clip=FOLDER"):
        Unclip(unet)
    with pytest.raises(RequestError, match="is no prior"):
        Unclip(unet, clip=str(clip), prior=str(clip))
    with pytest.raises(RequestError, match="set model.embedding"):
        Unclip(parity.ours("unet", **UNET, cross=24, embedding=24)[1], clip=str(clip))
    with pytest.raises(RequestError, match="is told a vector"):
        Unclip(parity.ours("unet", **UNET)[1], clip=str(clip))
    with pytest.raises(RequestError, match="model.name=prior"):
        Prior(unet, clip=str(clip))
    with pytest.raises(RequestError, match="all three must fit"):
        Prior(parity.ours("prior", **{**PRIOR, "text": 9})[1], clip=str(clip), codec=codec)
    with pytest.raises(RequestError, match="data.codec.name=saved"):
        Prior(parity.ours("prior", **PRIOR)[1], clip=str(clip), codec=char.fit(["other letters"]))
