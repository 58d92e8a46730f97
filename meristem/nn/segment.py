"""Prompts and masks as tensors: points with signs, boxes as their corners, clicks into what is still wrong, overlap.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 3 and appendix A. Points are (x, y) in pixels from the
middle of the first; boxes are (first x, first y, last x, last y), both ends inside. Everything works on stacks.

    points, signs = prompts(centre(masks)[..., None, :])        # a click in the middle of each mask
"""
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

AWAY, OBJECT, FIRST, LAST = range(4)    # what a point says: not the object, the object, a box's two corners
BLANK, PADDING = -1, -2                 # a point that says nothing (beside points without a box), and none at all


def prompts(points: Float[Tensor, "*B N 2"] | None = None, signs: Int[Tensor, "*B N"] | None = None,
            boxes: Float[Tensor, "*B 4"] | None = None) -> tuple[Float[Tensor, "*B K 2"], Int[Tensor, "*B K"]]:
    """Points with their signs (None: all on the object) and boxes as one list of points with signs.

    Points without a box are followed by one that says nothing, as the published model was trained.
    """
    if boxes is not None:
        corners = boxes.unflatten(-1, (2, 2)).float()
        said = torch.tensor([FIRST, LAST], device=boxes.device).expand(corners.shape[:-1])
    else:
        assert points is not None, "a prompt has points or a box"
        corners = points.new_zeros(*points.shape[:-2], 1, 2)
        said = torch.full(corners.shape[:-1], BLANK, device=points.device)
    if points is None:
        return corners, said
    signs = torch.ones_like(points[..., 0], dtype=torch.long) if signs is None else signs
    return torch.cat([points, corners], -2), torch.cat([signs, said], -1)


def boxes_of(masks: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B 4"]:
    """The smallest box around each mask; an empty mask has (0, 0, 0, 0)."""
    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        count = line.shape[-1]
        return line.int().argmax(-1), count - 1 - line.flip(-1).int().argmax(-1)

    (x0, x1), (y0, y1) = ends(masks.any(-2)), ends(masks.any(-1))
    return torch.stack([x0, y0, x1, y1], -1).float() * masks.any(-1).any(-1)[..., None]


def overlap(a: Bool[Tensor, "*B H W"], b: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of masks; two empty ones agree."""
    both, either = (a & b).sum((-1, -2)), (a | b).sum((-1, -2))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


def box_overlap(a: Float[Tensor, "N 4"], b: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Intersection over union of every box with every other, in whole pixels."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low + 1).clamp(min=0).prod(-1)
    size = [(box[:, 2:] - box[:, :2] + 1).prod(-1) for box in (a, b)]
    return both / (size[0][:, None] + size[1] - both)


def somewhere(masks: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B 2"]:
    """A random place of each mask, from torch's generator; of an empty one any place."""
    flat = masks.flatten(-2).float()
    flat = torch.where(flat.any(-1, keepdim=True), flat, torch.ones_like(flat))
    at = torch.multinomial(flat.flatten(0, -2), 1).reshape(flat.shape[:-1])
    return torch.stack([at % masks.shape[-1], at // masks.shape[-1]], -1).float()


def depth(masks: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B H W"]:
    """The distance of each place of a mask to the nearest one outside it, the picture's border being outside; else 0.

    Exact: the distance along the column first, then the nearest of all columns (Felzenszwalb & Huttenlocher 2012).
    """
    padded = F.pad(masks, (1, 1, 1, 1))
    high, wide = padded.shape[-2:]
    rows = torch.arange(high, device=masks.device)[:, None].float()
    outside = torch.where(padded, torch.full_like(rows, -float("inf")), rows)
    above = outside.cummax(-2).values
    below = -torch.where(padded, torch.full_like(rows, -float("inf")), -rows).flip(-2).cummax(-2).values.flip(-2)
    column = torch.minimum(rows - above, below - rows).square()                    # [*B, H, W]
    across = torch.arange(wide, device=masks.device)
    apart = (across[:, None] - across).square().float()
    nearest = torch.stack([(column + apart[x]).amin(-1) for x in range(wide)], -1)
    return nearest.sqrt()[..., 1:-1, 1:-1]


def centre(masks: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B 2"]:
    """The place of each mask that lies deepest inside it: where a person would click."""
    at = depth(masks).flatten(-2).argmax(-1)
    return torch.stack([at % masks.shape[-1], at // masks.shape[-1]], -1).float()


def at(masks: Bool[Tensor, "*B H W"], points: Float[Tensor, "*B 2"]) -> Bool[Tensor, "*B"]:
    """Whether each point lies in its mask."""
    place = points[..., 1].long() * masks.shape[-1] + points[..., 0].long()
    return masks.flatten(-2).gather(-1, place[..., None])[..., 0]


def choose(quality: Float[Tensor, "*B M"], sure: Bool[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """Which mask answers: the first to a clear prompt, else the one of the others that is expected to be best."""
    return torch.where(sure, 0, 1 + quality[..., 1:].argmax(-1))


def grown(masks: Float[Tensor, "*B h w"], side: int) -> Float[Tensor, "*B H W"]:
    """Logits at the side of the picture."""
    if masks.shape[-1] == side:
        return masks
    flat = masks.flatten(0, -3)[:, None]
    return F.interpolate(flat, size=(side, side), mode="bilinear", align_corners=False)[:, 0].unflatten(
        0, masks.shape[:-2])
