"""The half of `meristem generate` that segments: clicks and boxes to masks, laid over the picture in one PNG."""
from dataclasses import dataclass
from pathlib import Path

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import RequestError


@dataclass(frozen=True)
class Prompted:
    """The options that say which picture is segmented and what of it, in pixels of the model's view of it."""

    picture: Path
    out: Path | None
    clicks: tuple[str, ...]
    away: tuple[str, ...]
    box: str


def answer(model: Path, asked: Prompted) -> Answer:
    """Masks for one prompt (its three meanings where one click is all), or of everything where there is none."""
    if asked.out is None or asked.out.suffix.lower() != ".png":
        raise RequestError("say where the picture with its masks is written: --out masks.png")
    import numpy as np
    import torch

    from meristem.codecs.image import decode, encode, grid
    from meristem.core.files import write_bytes
    from meristem.generate.segment import ask, everything, overlay, promptable, see
    from meristem.hub import hf
    from meristem.nn.segment import AWAY, OBJECT, prompts
    module = hf.load(model_folder(model)).module.float()
    if why := promptable(module):
        raise RequestError(f"{model}: {why}")
    side, channels = (vars(module.config)[key] for key in ("image", "channels"))
    try:
        raw = asked.picture.expanduser().read_bytes()
    except OSError as error:
        raise RequestError(f"{asked.picture}: {error.strerror}") from None
    pixels = decode(raw, side, channels, str(asked.picture))
    points = [_numbers(word, 2, side) for word in (*asked.clicks, *asked.away)]
    signs = [OBJECT] * len(asked.clicks) + [AWAY] * len(asked.away)
    box = _numbers(asked.box, 4, side) if asked.box else None
    if not points and box is None:
        masks, quality = everything(module, pixels)
        views = [overlay(pixels, masks.numpy())]
    else:
        found = ask(module, see(module, pixels), *prompts(
            points=torch.tensor(points)[None] if points else None,
            signs=torch.tensor(signs)[None] if points else None,
            boxes=None if box is None else torch.tensor([box])))
        alone = len(points) == 1 and box is None
        masks, quality = (found.all_masks[0, 1:], found.all_quality[0, 1:]) if alone else (found.masks, found.quality)
        order = quality.argsort(descending=True)
        masks, quality = masks[order], quality[order]
        marks = [(x, y, sign == OBJECT) for (x, y), sign in zip(points, signs, strict=True)]
        boxes = [] if box is None else [(box[0], box[1], box[2], box[3])]
        views = [overlay(pixels, mask[None].numpy(), marks, boxes) for mask in masks]
    write_bytes(asked.out.expanduser(), encode(grid(np.stack(views), len(views))))
    facts = {"model": str(model), "picture": str(asked.picture), "out": str(asked.out), "side": side,
             "masks": [{"quality": round(q, 3), "pixels": int(mask.sum())}
                       for q, mask in zip(quality.tolist(), masks, strict=True)]}
    return Answer(facts, f"{asked.out}: {len(masks)} masks")


def _numbers(text: str, count: int, side: int) -> list[float]:
    """'12,30' -> [12.0, 30.0]; RequestError for something else or a place outside the picture."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not all(0 <= v < side for v in found):
        shape = "x,y" if count == 2 else "left,top,right,bottom"
        raise RequestError(f"{text!r} is not {shape} in pixels from 0 to {side - 1} (the model sees the middle "
                           f"square of the picture at {side} x {side})")
    return found
