"""The contrastive losses are those of transformers; with a scale of 0 the softmax one is ln(batch)."""
import math

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.objectives.contrastive import Contrastive
from tests.models import parity
from tests.models.test_clip import fields, ours


def batch() -> dict[str, torch.Tensor]:
    """Five rows: bytes of pictures, texts that end at their last token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 90, (5, 21), generator=generator)
    tokens[:, 19] = 96
    return {"images": torch.randint(0, 256, (5, 3, 28, 28), generator=generator).to(torch.uint8), "tokens": tokens}


@pytest.mark.parametrize(("kind", "name"), [("clip", "CLIP"), ("siglip", "Siglip")])
@torch.no_grad()
def test_the_loss_is_theirs(kind: str, name: str, tmp_path) -> None:
    from meristem.hub import hf
    model = parity.theirs(f"{name}Model", f"{name}Config", **fields(name))
    model.save_pretrained(tmp_path)
    objective = Contrastive(hf.load(tmp_path).module)
    ready = objective.prepare(batch())
    loss, facts = objective(ready)
    theirs = model(pixel_values=ready["images"], input_ids=ready["tokens"][:, :-1], return_loss=True)
    torch.testing.assert_close(loss / float(objective.weight(ready)), theirs.loss, rtol=1e-5, atol=0)
    assert float(facts["accuracy"]) == float((theirs.logits_per_image.argmax(1) == torch.arange(5)).sum())


@torch.no_grad()
def test_without_a_scale_it_is_ln_of_the_batch_and_at_clips_own_it_is_not() -> None:
    objective = Contrastive(parity.ours("clip", **ours("clip"))[1])
    ready = objective.prepare(batch())
    objective.model.scale.fill_(-math.inf)
    assert float(objective(ready)[0]) / 5 == pytest.approx(math.log(5), rel=1e-7)
    objective.model.scale.fill_(math.log(1 / 0.07))
    assert abs(float(objective(ready)[0]) / 5 - math.log(5)) > 0.01


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_a_text_before_padding_is_read(kind: str) -> None:
    """The rows of data.pictures: a text, its end, padding of a segment of its own."""
    objective = Contrastive(parity.ours("clip", **ours(kind))[1])
    tokens = torch.full((3, 21), 96)
    tokens[:, 0] = torch.tensor([5, 6, 5])
    ready = {**batch(), "images": batch()["images"][:3], "tokens": tokens, "segments": (torch.arange(20) > 1).long()}
    one, other, same = objective.model(**objective.inputs(objective.prepare(ready)))[1]
    torch.testing.assert_close(one, same)
    assert float((one - other).abs().max()) > 1e-3


def test_the_scale_stays_below_100() -> None:
    objective = Contrastive(parity.ours("clip", **ours("clip"))[1])
    with torch.no_grad():
        objective.model.scale.fill_(9.0)
    objective.after_step(0)
    assert float(objective.model.scale.detach().exp()) == pytest.approx(100)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_rows_with_the_same_text_belong_together(kind: str) -> None:
    model = parity.ours("clip", **ours(kind))[1]
    apart, together = Contrastive(model), Contrastive(model, together=True)
    ready = apart.prepare(batch())
    torch.testing.assert_close(apart(ready), together(ready))                # all texts differ: it is the same loss
    ready["tokens"][3] = ready["tokens"][0]
    loss, facts = together(ready)
    logits = model.logits(*model(**together.inputs(ready)))
    same = torch.eye(5)
    same[0, 3] = same[3, 0] = 1
    if kind == "clip":
        share = same / same.sum(1, keepdim=True)
        hand = -(share * logits.log_softmax(1)).sum() / 2 - (share * logits.T.log_softmax(1)).sum() / 2
    else:
        hand = torch.nn.functional.softplus((1 - 2 * same) * logits).sum()
    torch.testing.assert_close(loss, hand)
    assert float(facts["accuracy"]) == float(same[torch.arange(5), logits.argmax(1)].sum())


def test_models_and_rows_that_do_not_fit() -> None:
    with pytest.raises(RequestError, match="two towers"):
        Contrastive(parity.ours("vit", image=28, patch=7, dim=48, layers=1, heads=4)[1])
    with pytest.raises(RequestError, match="rows with an image"):
        Contrastive(parity.ours("clip", **ours("clip"))[1]).prepare({"tokens": batch()["tokens"]})
