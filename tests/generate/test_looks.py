"""Attention laid over pictures: warm where it is largest, dim elsewhere; objectives show it where the model can."""
import torch

from meristem.generate.looks import laid_over
from meristem.models import resnet, vit
from meristem.objectives.classify import Classify


def test_what_is_looked_at_is_warm() -> None:
    pixels = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    shares = torch.zeros(2, 2, 2)
    shares[0, 0, 1], shares[1, 1, 0] = 0.3, 0.9
    shown = laid_over(pixels, shares)
    assert shown.shape == (2, 3, 8, 8)
    red = shown[:, 0].int()
    assert red[0, 0, 7] == red[1, 7, 0] == round(0.5 * 200 + 0.5 * 255) and red[0, 7, 0] == red[1, 0, 7] == 70


def test_objectives_show_where_their_model_looks() -> None:
    c = vit.Config(head="image", image=8, patch=4, dim=16, layers=1, heads=2, labels=("a", "b"))
    objective = Classify(vit.Model(c))
    batch = {"images": torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8)}
    assert objective.illustrates
    shown = objective.illustrate(batch)
    assert shown.shape == (3, 3, 8, 8) and shown.dtype == torch.uint8
    assert not Classify(resnet.Model(resnet.Config(head="image", image=8, stem=8, widths=(8, 8), depths=(1, 1),
                                                   kind="basic"))).illustrates
