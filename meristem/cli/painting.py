"""The half of `meristem generate` that paints: from options to a `Wish`, from pictures to one PNG.

A picture that is given is cut to its middle square and scaled to the side that the model paints.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meristem.cli.common import Answer
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from meristem.generate.pictures import How, Painter


ENDINGS = (".png",), (".gif", ".mp4")   # of pictures, of films


@dataclass(frozen=True)
class Asked:
    """The options that say what is painted and from which pictures."""

    text: str
    out: Path | None
    count: int
    edit: Path | None
    mask: Path | None
    extend: int
    variations: Path | None
    enlarge: Path | None
    strength: float
    begin: Path | None = None           # the first frame of a film
    watermark: str = ""                 # a key


def paints(folder: Path) -> bool:
    """Whether `generate` should paint with what is in a folder."""
    if not (folder.expanduser() / "recipe.json").is_file() and not (folder.expanduser() / "model_index.json").is_file():
        return False
    from meristem.train.painting import is_pictures
    return is_pictures(folder)


def answer(folder: Path, asked: Asked, **more: Any) -> Answer:
    """Paint and write the grid; RequestError for pictures that cannot be read, or that the model cannot do."""
    sources: dict[How, Path | None] = {"edit": asked.edit, "vary": asked.variations, "enlarge": asked.enlarge,
                                           "begin": asked.begin}
    given = {kind: path for kind, path in sources.items() if path}
    if asked.out is None:
        raise RequestError("this model paints: say where to with --out grid.png")
    suffix = asked.out.suffix.lower()
    if suffix not in ENDINGS[0] + ENDINGS[1] or not asked.out.expanduser().absolute().parent.is_dir():
        raise RequestError(f"--out {asked.out} is no PNG (of films: GIF or MP4) in a folder that is there; write --out "
                           "grid.png")
    if len(given) > 1:
        raise RequestError("--edit, --variations, --enlarge and --image are four requests; give one of them")
    if (asked.mask or asked.extend) and not asked.edit:
        raise RequestError("--mask and --extend say what of a picture is painted anew; give it with --edit")
    from meristem.api import painter as open_painter
    from meristem.core.files import write_bytes
    from meristem.generate.pictures import Wish, paint
    from meristem.train.painting import as_grid
    painter = open_painter(folder)
    kind: How = next(iter(given), "new")
    image, mask = None, None
    if kind != "new":
        image = read(given[kind], 0 if kind == "enlarge" else painter.side, painter.channels)
        image, mask = place(image, asked, painter) if kind == "edit" else (image, None)
    wish = Wish(texts=(asked.text,) * asked.count, how=kind, image=image, mask=mask, strength=asked.strength, **more)
    made = paint(painter, wish)
    if suffix not in (endings := ENDINGS[made.ndim == 5]):
        raise RequestError(f"--out {asked.out}: this model paints {'films' if made.ndim == 5 else 'pictures'}; write "
                           f"--out grid{endings[0]}")
    write_bytes(asked.out.expanduser(), as_grid(made, form="mp4" if suffix == ".mp4" else "gif",
                                                       key=asked.watermark))
    facts = {"model": str(folder), "prompt": asked.text, "out": str(asked.out), "count": asked.count, "how": kind,
             "side": painter.side, **more}
    return Answer(facts, f"{asked.out}: {asked.count} pictures of {painter.side} x {painter.side} pixels")


def read(path: Path, side: int, channels: int) -> "Tensor":
    """A picture from -1 to 1, [C, H, W]; `side` 0 keeps its size, but for what is not its middle square."""
    import torch

    from meristem.codecs.image import decode
    from meristem.nn.image import between
    try:
        raw = path.expanduser().read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}") from None
    pixels = decode(raw, side, channels, str(path))
    least = min(pixels.shape[1:])
    top, left = ((n - least) // 2 for n in pixels.shape[1:])
    return between(torch.from_numpy(pixels[None, :, top:top + least, left:left + least].copy()))[0]


def place(image: "Tensor", asked: Asked, painter: "Painter") -> tuple["Tensor", Any]:
    """The picture to edit and where it is painted anew: white places of --mask, and the border of --extend."""
    import torch
    from torch.nn import functional as F
    mask = read(asked.mask, painter.side, 1)[0] > 0 if asked.mask else None
    if not asked.extend:
        return image, mask
    inner = painter.side - 2 * asked.extend
    if inner < 1:
        raise RequestError(f"--extend {asked.extend} leaves nothing of {painter.side} pixels; give less than "
                           f"{painter.side // 2}")
    around = (asked.extend,) * 4
    small = F.interpolate(image[None], size=(inner, inner), mode="area")
    old = torch.zeros(1, 1, inner, inner) if mask is None else F.interpolate(mask[None, None].float(), (inner, inner))
    return F.pad(small, around)[0], F.pad(old, around, value=1.0)[0, 0] > 0
