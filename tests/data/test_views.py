"""Views are functions of a seed: the whole picture when nothing is asked, a part of it else, in the drawn colours."""
import pytest
import torch

from meristem.data.views import Look, crops, hidden


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 16, 16, generator=rng(9)) * 2 - 1


EVERYTHING = {"area": (0.3, 0.9), "flip": 0.5, "turn": 20.0, "shear": 0.2, "light": 0.4, "colour": 0.4, "grey": 0.2,
              "blur": 0.5, "invert": 0.2}


def test_the_same_seed_gives_the_same_views() -> None:
    look = Look(side=8, **EVERYTHING)
    one, two, other = (crops(pictures(), look, 4, rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, 4, 3, 8, 8) and torch.equal(one, two) and not torch.equal(one, other)
    assert one.abs().max() <= 1 and one.isfinite().all()
    assert not torch.equal(one[:, 0], one[:, 1]), "views of one picture differ"


def test_a_look_at_everything_is_the_picture() -> None:
    images = pictures()
    views = crops(images, Look(side=16, area=(1.0, 1.0), ratio=1.0), 2, rng())
    torch.testing.assert_close(views[:, 1], images, atol=1e-5, rtol=0)
    torch.testing.assert_close(crops(images, Look(side=16, area=(1.0, 1.0), ratio=1.0, flip=1.0), 1, rng())[:, 0],
                               images.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(crops(images, Look(side=16, area=(1.0, 1.0), ratio=1.0, invert=1.0), 1, rng())[:, 0],
                               -images, atol=1e-5, rtol=0)


def test_a_crop_shows_its_share() -> None:
    """Of a ramp from -1 to 1 a quarter of the picture spans half the range, wherever it lies."""
    ramp = ((torch.arange(64) + 0.5) / 32 - 1).expand(1, 1, 64, 64)
    views = crops(ramp, Look(side=32, area=(0.25, 0.25), ratio=1.0), 50, rng())[0, :, 0]
    span = views[:, 0, -1] - views[:, 0, 0]
    torch.testing.assert_close(span, torch.full((50,), 31 / 32), atol=0.01, rtol=0)
    assert views.mean((1, 2)).std() > 0.15, "they lie at different places"


def test_grey_and_blur() -> None:
    whole = {"side": 16, "area": (1.0, 1.0), "ratio": 1.0}
    grey = crops(pictures(), Look(**whole, grey=1.0), 1, rng())[:, 0]
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    dot = torch.full((1, 1, 16, 16), -1.0)
    dot[..., 8, 8] = 1.0
    blurred = crops(dot, Look(**whole, blur=1.0), 20, rng())[0, :, 0]
    assert (blurred[:, 8, 8] < 1).any() and (blurred[:, 8, 9] > -0.9).any()
    torch.testing.assert_close((blurred + 1).sum((1, 2)), torch.full((20,), 2.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(blurred[:, 8, 9], blurred[:, 9, 8])


@pytest.mark.parametrize("grid", [(4, 4), (7, 3)])
def test_hidden_patches_are_as_many_as_asked(grid: tuple[int, int]) -> None:
    masks = hidden(400, *grid, (0.1, 0.5), 0.5, rng(3))
    places = grid[0] * grid[1]
    assert masks.shape == (400, places) and torch.equal(masks, hidden(400, *grid, (0.1, 0.5), 0.5, rng(3)))
    counts = masks.sum(1)
    assert 150 < int((counts > 0).sum()) < 250
    assert int(counts.max()) <= round(0.5 * places) and int(counts[counts > 0].min()) == max(1, round(0.1 * places))
    assert not hidden(9, *grid, (0.1, 0.5), 0.0, rng()).any()
