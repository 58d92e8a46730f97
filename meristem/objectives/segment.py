"""Promptable segmentation: a click or a box, then clicks into what is still wrong, each answered by masks.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 3 and appendix A ("Training algorithm"): focal loss
(Lin et al. 2017, https://arxiv.org/abs/1708.02002) + dice loss (Milletari et al. 2016,
https://arxiv.org/abs/1606.04797), the least of three masks where one click leaves open what is meant, and the squared
error of the expected IoU. The paper sums the loss over all rounds of a prompt; here a step draws how many rounds went
before and learns from the one after them, which costs one forward pass of the encoder instead of all rounds' memory.
`focal` weighs the focal loss: 20 in the paper, 5 here, where nothing is pretrained.

    meristem pretrain sam data.corpus=OBJECTS
"""
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core import parallel
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.segment import ask, overlay, see, single
from meristem.nn.image import between
from meristem.nn.segment import (
    AWAY,
    BLANK,
    FIRST,
    LAST,
    OBJECT,
    PADDING,
    at,
    boxes_of,
    centre,
    choose,
    grown,
    overlap,
    somewhere,
)
from meristem.objectives.base import Objective

JITTER, FURTHEST = 0.1, 20.0            # of a box's side, and pixels: how far its corners are off (appendix A)


class Promptable(Protocol):
    """What the objective asks of a model between rounds."""

    def encode(self, images: Tensor) -> Tensor:
        """Pictures as the decoder sees them."""
        ...

    def decode(self, seen: Tensor, points: Tensor, signs: Tensor, drafts: Tensor,
               drafted: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and their expected IoU."""
        ...


class Segment(Objective):
    """Summed over prompts; facts: `iou` of the mask that the model itself ranks first, `quality` how far it errs there.
    """

    def __init__(self, model: nn.Module, rounds: int = 4, focal: float = 5.0, boxes: float = 0.5):
        super().__init__(model)
        if "decoder_heads" not in vars(model.config):
            raise RequestError("segment needs a model that answers prompts with masks; set model.name=sam")
        self.rounds, self.focal, self.boxes = rounds, focal, boxes

    def prepare(self, batch: Batch) -> Batch:
        """First prompts, and in half of the steps some rounds of clicks into what the model gets wrong."""
        if "masks" not in batch:
            raise RequestError("segment needs the masks of objects; set data.examples=segments")
        images, masks = between(batch["images"]), batch["masks"].bool()
        points, signs = self.first(masks)
        side = 4 * cast(Any, self.model.config).grid
        made: Batch = {**batch, "images": images, "masks": masks, "points": points, "signs": signs,
                       "drafts": torch.zeros(*masks.shape[:2], side, side),
                       "drafted": torch.zeros(masks.shape[:2], dtype=torch.bool)}
        if parallel.count() > 1:
            raise RequestError("segment asks its model several times a step, as often as each process draws; train it "
                               "in one process")
        rounds = int(torch.randint(1, self.rounds + 1, ())) if self.rounds and torch.rand(()) < 0.5 else 0
        if rounds:
            model = cast(Promptable, self.model)
            with torch.no_grad():
                here = self.device
                seen = model.encode(images.to(here))
                for n in range(rounds):
                    asked = (made[key].to(here) for key in ("points", "signs", "drafts", "drafted"))
                    masks_, quality = model.decode(seen, *asked)
                    made = self.click(made, (masks_.cpu(), quality.cpu()), 2 + n)
        return made

    def first(self, masks: Bool[Tensor, "B P H W"]) -> tuple[Tensor, Tensor]:
        """A click somewhere in each mask, or with chance `boxes` its box, a little off; with room for more clicks."""
        shape, size = masks.shape[:2], torch.tensor(masks.shape[-2:]).flip(0).repeat(2) - 1
        box = boxes_of(masks)
        off = ((box[..., 2:] - box[..., :2]) * JITTER).clamp(max=FURTHEST).repeat(1, 1, 2)
        corners = torch.minimum((box + off * torch.randn(box.shape)).clamp(min=0), size).unflatten(-1, (2, 2))
        click = torch.stack([somewhere(masks), torch.zeros(*shape, 2)], 2)
        by_box = torch.rand(shape) < self.boxes
        points = F.pad(torch.where(by_box[..., None, None], corners, click), (0, 0, 0, self.rounds))
        said = torch.where(by_box[..., None], torch.tensor([FIRST, LAST]), torch.tensor([OBJECT, BLANK]))
        return points, F.pad(said, (0, self.rounds), value=PADDING)

    def click(self, batch: Batch, output: tuple[Tensor, Tensor], place: int) -> Batch:
        """One more click, at `place`, where the best of the masks is wrong, and that mask as a draft."""
        masks, quality = (x.float() for x in output)
        best = choose(quality, clear(batch))
        draft = masks.gather(2, best[..., None, None, None].expand(-1, -1, 1, *masks.shape[3:]))[:, :, 0]
        truth = batch["masks"]
        where = somewhere((grown(draft, truth.shape[-1]) > 0) != truth)
        points, signs = batch["points"].clone(), batch["signs"].clone()
        points[:, :, place], signs[:, :, place] = where, torch.where(at(truth, where), OBJECT, AWAY)
        return {**batch, "points": points, "signs": signs, "drafts": draft,
                "drafted": torch.ones_like(batch["drafted"])}

    @property
    def illustrates(self) -> bool:
        """Always."""
        return True

    def illustrate(self, batch: Batch) -> UInt8[Tensor, "N 3 H W"]:
        """The mask that answers a click in the middle of the first object of each row, laid over its picture."""
        out = []
        for image, masks in zip(batch["images"].numpy(), batch["masks"].bool(), strict=True):
            click = centre(masks[:1])
            found = ask(self.model, see(self.model, image), *single(click))
            (x, y), = click.tolist()
            out.append(torch.from_numpy(overlay(image, found.masks.numpy(), [(x, y, True)])))
        return torch.stack(out)

    def weight(self, batch: Batch) -> Tensor:
        """Prompts."""
        return torch.tensor(float(batch["masks"].shape[0] * batch["masks"].shape[1]))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures, points with signs, earlier masks and who has one."""
        return {key: batch[key] for key in ("images", "points", "signs", "drafts", "drafted")}

    def score(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask logits [B, P, M, h, w] and expected IoU [B, P, M] -> (summed loss, facts)."""
        truth, sure = batch["masks"], clear(batch)
        masks, quality = grown(output[0].float(), truth.shape[-1]), output[1].float()
        target = truth[:, :, None].float().expand_as(masks)
        each = self.focal * focal(masks, target) + dice(masks, target)
        loss = torch.where(sure, each[..., 0], each[..., 1:].amin(-1))
        real = overlap(masks.detach() > 0, truth[:, :, None].expand_as(masks))
        wrong = (quality - real).square()
        rank = torch.where(sure, wrong[..., 0], wrong[..., 1:].mean(-1))
        best = choose(quality.detach(), sure)[..., None]
        return (loss + rank).sum(), {"iou": real.gather(-1, best).sum(), "quality": rank.detach().sqrt().sum()}


def clear(batch: Batch) -> Bool[Tensor, "B P"]:
    """Prompts that say what is meant: a box, or more than one click."""
    return batch["drafted"] | (batch["signs"][..., 1] != BLANK)


def focal(logits: Float[Tensor, "*B H W"], truth: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Cross-entropy of each pixel times (1 - p of the truth)^2, objects weighing 0.25 and the rest 0.75; the mean."""
    nll = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    side = truth * 0.25 + (1 - truth) * 0.75
    return (side * nll * (1 - torch.exp(-nll)).square()).mean((-1, -2))


def dice(logits: Float[Tensor, "*B H W"], truth: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """1 - 2 |p t| / (|p| + |t|), each sum one larger, as DETR counts it."""
    p = logits.sigmoid()
    return 1 - (2 * (p * truth).sum((-1, -2)) + 1) / (p.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
