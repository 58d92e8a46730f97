"""DALL-E's loss: what is a caption, what a picture, how much each counts, and what paints afterwards."""
from pathlib import Path

import pytest
import torch

from meristem.codecs import char
from meristem.core.errors import RequestError
from meristem.data.pictures import captions
from meristem.generate.image_tokens import Guided
from meristem.generate.pictures import Wish, paint
from meristem.hub import hf
from meristem.objectives.image_tokens import ImageTokens
from tests.models import parity

TEXTS = ("red", "a blue ring", "")
SMALL = {"codes": 9, "text": 12, "grid": 4, "dim": 32, "layers": 2, "heads": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("codes")
    config, model = parity.ours("autoencoder", kind="dvae", channels=(16, 32), blocks=1, groups=8, latent=4, image=8,
                                codes=9, scale=1.0)
    hf.save(folder, "autoencoder", config, model)
    codec = char.fit(["a red blue ring"])
    return codec, model, folder, parity.ours("dalle", **SMALL, vocab=codec.vocab, end=codec.end)[1]


def batch(codec) -> dict[str, torch.Tensor]:
    tokens, lengths = captions(codec, TEXTS, 12)
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return {"images": images, "tokens": torch.from_numpy(tokens).long(), "weight": torch.ones(3),
            "segments": (torch.arange(12) >= torch.from_numpy(lengths)[:, None]).long()}


@torch.no_grad()
def test_the_loss_by_hand(parts) -> None:
    codec, autoencoder, folder, model = parts
    objective = ImageTokens(model, autoencoder=str(folder)).eval()
    ready = objective.prepare(batch(codec))
    images = batch(codec)["images"].float() / 127.5 - 1
    words, cells = ready["tokens"].split([12, 16], 1)
    assert torch.equal(cells, autoencoder.tokens(images).flatten(1) + codec.vocab)
    assert words[0].tolist() == [*codec.encode("red"), *[codec.end] * 9]
    loss, facts = objective(ready)
    logp = model(ready["tokens"][:, :-1]).log_softmax(-1).gather(2, ready["tokens"][:, 1:, None])[..., 0]
    pixels = -logp[:, 11:].mean(1)
    said = [-logp[row, :length - 1].mean() for row, length in enumerate((4, 12))]
    by_hand = sum(said) / 8 + 7 / 8 * (pixels[0] + pixels[1]) + pixels[2]      # the third has no caption to predict
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(facts["cells"], pixels.sum())
    torch.testing.assert_close(facts["words"], sum(said))
    torch.testing.assert_close(objective.weight(ready), torch.tensor(3.0))


def test_a_share_of_the_captions_is_left_out(parts) -> None:
    codec, _, folder, model = parts
    objective = ImageTokens(model, autoencoder=str(folder), drop=0.5).train()
    torch.manual_seed(0)
    first = torch.stack([objective.prepare(batch(codec))["tokens"][:2, 0] for _ in range(40)])
    dropped = float((first == codec.end).float().mean())
    assert 0.3 < dropped < 0.7
    assert objective.picture == (8, 3) and not any("frozen" in name for name in objective.state_dict())


def test_what_paints_afterwards(parts, tmp_path: Path) -> None:
    codec, autoencoder, folder, model = parts
    painter = ImageTokens(model, autoencoder=str(folder)).painter(codec)
    texts = ("red", "a blue ring", "") * 2
    images = paint(painter, Wish(texts, seed=3))                # guided
    assert not torch.equal(images, paint(painter, Wish(texts, seed=3, guidance=1.0)))
    assert images.shape == (6, 3, 8, 8) and (painter.side, painter.channels) == (8, 3)
    torch.testing.assert_close(paint(painter, Wish(texts[:2], seed=3)), images[:2])
    assert not torch.equal(images[0], paint(painter, Wish(texts[:1], seed=4))[0])
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3:5, 6:] = True                                       # two cells of the last column are written anew
    given = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    edited = paint(painter, Wish(("red",) * 8, how="edit", image=given, mask=mask))
    assert torch.equal(edited[:, :, ~mask], given[:, ~mask].expand(8, -1, -1)) and len(edited.unique(dim=0)) > 1
    with pytest.raises(RequestError, match="give a mask"):
        paint(painter, Wish(how="edit", image=given))
    with pytest.raises(RequestError, match="which draw is best"):
        paint(painter, Wish(best_of=2))


@torch.no_grad()
def test_guidance_moves_away_from_no_caption(parts) -> None:
    codec, _, _, model = parts
    c = model.config
    words = torch.from_numpy(captions(codec, ["red", "a ring"], 12)[0][:, :-1]).long()
    words = torch.where((words == c.end).cumsum(1) > 0, c.end, words)
    cells = torch.randint(c.vocab, c.vocab + 9, (2, 5), generator=torch.Generator().manual_seed(0))
    tokens, at = torch.cat([words, cells], 1), torch.arange(17).expand(2, -1)
    told, untold = model(tokens), model(torch.cat([torch.full_like(words, c.end), cells], 1))
    guided = Guided(model, 3.0)
    cache = guided.caches(2, 17)
    pieces = [guided(tokens[:, a:b], at[:, a:b], cache) for a, b in ((0, 12), (12, 13), (13, 17))]
    parity.close(torch.cat(pieces, 1), untold + 3 * (told - untold))
    for layer in cache:
        layer.keep(torch.tensor([1]))
    assert cache[0].told.k.shape[0] == cache[0].untold.k.shape[0] == 1


def test_of_several_draws_the_nearest_is_shown(parts, tmp_path: Path) -> None:
    codec, _, folder, model = parts
    tower = {"dim": 16, "layers": 1, "heads": 2}
    config, clip = parity.ours("clip", vocab=codec.vocab, end=codec.end, context=12, text=tower, vision=tower, image=8,
                               patch=4, project=8)
    hf.save(tmp_path, "clip", config, clip)
    painter = ImageTokens(model, autoencoder=str(folder), clip=str(tmp_path)).painter(codec)
    tokens = torch.from_numpy(captions(codec, ["red"], 12)[0][:, :-1]).long()

    def near(images: torch.Tensor) -> float:
        return float((clip.embed_images(images) * clip.embed_texts(tokens)).sum())

    with torch.no_grad():
        best = [near(paint(painter, Wish(("red",), seed=2, best_of=n))) for n in (1, 2, 8)]
    assert best[0] <= best[1] <= best[2] and best[0] < best[2]


def test_what_cannot_be(parts) -> None:
    codec, _, folder, model = parts
    with pytest.raises(RequestError, match="model.name=dalle"):
        ImageTokens(parity.ours("gpt2", vocab=97, context=20, dim=32, layers=1, heads=4)[1])
    with pytest.raises(RequestError, match="objective.autoencoder=FOLDER"):
        ImageTokens(model)
    with pytest.raises(RequestError, match="codebook of 30"):
        ImageTokens(parity.ours("dalle", **{**SMALL, "codes": 30}, vocab=codec.vocab)[1], autoencoder=str(folder))
    with pytest.raises(RequestError, match="train.context=12"):
        ImageTokens(model, autoencoder=str(folder)).prepare({**batch(codec), "tokens": torch.zeros(3, 9).long()})
