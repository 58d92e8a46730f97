"""Promptable segmentation: losses by hand, prompts that point where they should, clicks into what is wrong."""
import pytest
import torch
from torch.nn import functional as F

from meristem.core import parallel
from meristem.core.errors import RequestError
from meristem.models import vit
from meristem.models.sam import Config, Model
from meristem.nn.segment import AWAY, BLANK, FIRST, LAST, OBJECT, PADDING, at, boxes_of, grown
from meristem.objectives.segment import Segment, clear, dice, focal

SMALL = Config(image=16, patch=2, dim=16, layers=1, heads=2, window=4, whole=(0,), width=16, decoder_heads=2,
               decoder_hidden=16, quality_hidden=16)


def objective(**fields: float) -> Segment:
    torch.manual_seed(0)
    return Segment(Model(SMALL), **fields)                     # type: ignore[arg-type]


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(rows, 4, 16, 16, dtype=torch.bool)
    for n in range(4):
        masks[:, n, 2 + n:9 + n, 3:8 + n] = True
    return {"images": torch.randint(0, 256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8), "masks": masks,
            "weight": torch.ones(rows)}


def test_first_prompts_are_clicks_inside_and_boxes_around() -> None:
    torch.manual_seed(3)
    told = objective(rounds=3)
    masks = batch(64)["masks"]
    points, signs = told.first(masks)
    boxed = signs[..., 0] == FIRST
    assert 0.3 < float(boxed.float().mean()) < 0.7 and points.shape == (64, 4, 5, 2)
    assert bool((signs[..., 2:] == PADDING).all())
    assert bool((signs[boxed][:, 1] == LAST).all())
    assert bool((signs[~boxed][:, :2] == torch.tensor([OBJECT, BLANK])).all())
    assert bool(at(masks[~boxed], points[~boxed][:, 0]).all())
    off = points[boxed][:, :2].flatten(1) - boxes_of(masks)[boxed]
    assert 0.3 < float(off.std()) < 1.0 and float(off.abs().max()) < 4         # a tenth of sides of 4 to 7
    assert objective(boxes=0.0).first(masks)[1][..., 0].eq(OBJECT).all()


def test_a_click_goes_where_the_draft_is_wrong() -> None:
    torch.manual_seed(0)
    told, given = objective(rounds=2), batch()
    points, signs = told.first(given["masks"])
    side = 32
    made = {**given, "points": points, "signs": signs, "drafts": torch.zeros(3, 4, side, side),
            "drafted": torch.zeros(3, 4, dtype=torch.bool)}
    truth = F.interpolate(given["masks"].float(), scale_factor=2.0) * 20 - 10
    masks = truth[:, :, None].repeat(1, 1, 4, 1, 1)
    masks[:, :, :, :16] = -10                                  # the upper half of every object is missed
    after = told.click(made, (masks, torch.zeros(3, 4, 4)), 2)
    where = after["points"][:, :, 2]
    assert bool(at(given["masks"], where).all()) and bool((where[..., 1] < 8).all())
    assert bool((after["signs"][:, :, 2] == OBJECT).all()) and bool(after["drafted"].all())
    masks[:] = 10                                              # everything is the object: a click outside it
    assert bool((told.click(made, (masks, torch.zeros(3, 4, 4)), 3)["signs"][:, :, 3] == AWAY).all())


def test_losses_by_hand() -> None:
    logits, truth = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    p = logits.sigmoid()
    right = torch.where(truth > 0, p, 1 - p)
    side = torch.where(truth > 0, 0.25, 0.75)
    torch.testing.assert_close(focal(logits, truth), (side * (1 - right) ** 2 * -right.log()).mean((-1, -2)))
    torch.testing.assert_close(dice(logits, truth), 1 - (2 * (p * truth).sum() + 1) / (p.sum() + 2 + 1).reshape(1))


def test_one_click_learns_from_the_best_of_three_and_clear_prompts_from_the_first() -> None:
    told, given = objective(), batch(1)
    truth = F.interpolate(given["masks"].float(), scale_factor=2.0) * 20 - 10
    masks = torch.full((1, 4, 4, 32, 32), -5.0)
    masks[:, :, 2] = truth
    quality = torch.zeros(1, 4, 4)
    quality[..., 2] = 1.0
    signs = torch.full((1, 4, 6), PADDING)
    signs[..., 0], signs[..., 1] = OBJECT, BLANK
    state = {**given, "signs": signs, "drafted": torch.zeros(1, 4, dtype=torch.bool)}
    assert not clear(state).any()
    loss, facts = told.score((masks, quality), state)
    assert float(loss) < 0.1 and float(facts["iou"]) == pytest.approx(4) and float(facts["quality"]) < 1e-3
    signs[..., 0], signs[..., 1] = FIRST, LAST
    assert clear(state).all()
    loss, facts = told.score((masks, quality), state)
    assert float(loss) > 3 and float(facts["iou"]) == 0
    masks[:, :, 0], quality[..., 0] = truth, 0.5
    assert float(told.score((masks, quality), state)[1]["quality"]) == pytest.approx(4 * 0.5)


def test_rounds_add_up_and_micro_batches_too() -> None:
    told, given = objective(rounds=2), batch(4)
    rounds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        made = told.prepare(given)
        rounds.add(int((made["signs"][0, 0, 2:] >= 0).sum()))
        assert bool(made["drafted"].all()) == (rounds != {0} and made["signs"][0, 0, 2] >= 0)
    assert rounds == {0, 1, 2}
    loss, _ = told(made)
    halves = [told({key: value[part] for key, value in made.items()})[0] for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(loss, halves[0] + halves[1])
    assert float(told.weight(made)) == 16
    loss.backward()
    assert all(p.grad is not None for name, p in told.named_parameters() if "prompts.conv" in name)


def test_logits_grow_to_the_picture() -> None:
    small = torch.randn(2, 3, 4, 8, 8)
    assert grown(small, 8) is small and grown(small, 16).shape == (2, 3, 4, 16, 16)


def test_models_and_rows_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"model\.name=sam"):
        Segment(vit.Model(vit.Config(image=16, patch=4, dim=16, layers=1, heads=2)))
    with pytest.raises(RequestError, match="data.examples=segments"):
        objective().prepare({"images": batch()["images"]})
    monkeypatch.setattr(parallel, "count", lambda: 2)
    with pytest.raises(RequestError, match="one process"):
        objective().prepare(batch())
