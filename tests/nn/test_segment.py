"""Prompts and masks: boxes around masks, depth as scipy measures it, clicks that lie where they should."""
import torch
from scipy import ndimage

from meristem.nn.segment import (
    BLANK,
    FIRST,
    LAST,
    at,
    box_overlap,
    boxes_of,
    centre,
    depth,
    overlap,
    prompts,
    somewhere,
)

DRAW = torch.Generator().manual_seed(3)
MASKS = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 12, 15, generator=DRAW), 3, 1, 1) > 0.5


def test_depth_is_scipys_distance() -> None:
    padded = torch.nn.functional.pad(MASKS, (1, 1, 1, 1)).numpy()
    want = torch.stack([torch.from_numpy(ndimage.distance_transform_edt(m)) for m in padded.reshape(6, 14, 17)])
    torch.testing.assert_close(depth(MASKS), want.unflatten(0, (2, 3))[..., 1:-1, 1:-1].float())
    deepest = centre(MASKS)
    assert bool(at(MASKS, deepest).all()) and deepest.shape == (2, 3, 2)
    full = centre(torch.ones(1, 5, 9, dtype=torch.bool))       # the border of the picture is outside
    assert full[0, 1] == 2


def test_clicks_lie_in_their_mask_and_reach_all_of_it() -> None:
    torch.manual_seed(0)
    mask = MASKS[:1, :1]
    found = torch.stack([somewhere(mask)[0, 0] for _ in range(1500)])
    assert bool(at(mask.expand(1500, 1, -1, -1)[:, 0], found).all())
    assert len({tuple(p) for p in found.tolist()}) == int(mask.sum())
    assert somewhere(torch.zeros(1, 4, 4, dtype=torch.bool)).max() < 4         # an empty mask: any place


def test_boxes_and_overlap() -> None:
    mask = torch.zeros(2, 10, 12, dtype=torch.bool)
    mask[0, 2:5, 3:9] = True
    assert boxes_of(mask).tolist() == [[3, 2, 8, 4], [0, 0, 0, 0]]
    other = mask.clone()
    other[0, 2:5, 3:6] = False
    assert overlap(mask, other).tolist() == [0.5, 1.0]
    a, b = torch.tensor([[0.0, 0, 3, 3]]), torch.tensor([[2.0, 0, 5, 3], [4, 4, 5, 5], [0, 0, 3, 3]])
    torch.testing.assert_close(box_overlap(a, b), torch.tensor([[8 / 24, 0.0, 1.0]]))


def test_a_box_is_its_corners_and_a_point_alone_has_a_blank_beside_it() -> None:
    points = torch.tensor([[[[5.0, 6]]]])
    both, signs = prompts(points, None, torch.tensor([[[0.0, 1, 10, 39]]]))
    assert signs[0, 0].tolist() == [1, FIRST, LAST] and both[0, 0, 1:].flatten().tolist() == [0, 1, 10, 39]
    assert prompts(points)[1][0, 0].tolist() == [1, BLANK]
    assert prompts(boxes=torch.tensor([[[0.0, 1, 10, 39]]]))[1][0, 0].tolist() == [FIRST, LAST]
