"""Pictures between bytes and arrays: PNG, JPEG, WebP, GIF or BMP in, uint8 [C, H, W] out, through Pillow.

    pixels = decode(path.read_bytes(), size=64)                # the middle of it, 64 x 64, three channels
    path.write_bytes(encode(pixels))                           # PNG

Bytes are not trusted: a format that is not listed, more than 50 million pixels (which a few kB can claim to hold) or
data that end early are one `RequestError`, raised before anything is unpacked. Transparency lies on white.
"""
import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from meristem.core.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PIXELS = 50_000_000                     # Pillow itself warns at 89 million and refuses at 179 million
MODES = {1: "L", 3: "RGB"}


def decode(raw: bytes, size: int = 0, channels: int = 3, name: str = "the picture") -> UInt8[np.ndarray, "C H W"]:
    """A picture's pixels; with a `size` its middle square, scaled to size x size (bicubic, anti-aliased)."""
    plain = _opened(raw, name, lambda picture: _opaque(picture).convert(MODES[channels]))
    plain = _middle(plain, size, "BICUBIC") if size else plain
    return np.atleast_3d(np.asarray(plain)).transpose(2, 0, 1)


def regions(raw: bytes, size: int = 0, name: str = "the label map") -> UInt16[np.ndarray, "H W"]:
    """The numbers of a label map: a grey or palette picture of 8 or 16 bits whose pixels say what lies there.

    With a `size` its middle square, scaled to size x size; a pixel takes the nearest number.
    """
    plain = _opened(raw, name, lambda picture: picture.copy())
    if plain.mode not in ("1", "L", "P", "I;16", "I;16B", "I"):
        raise RequestError(f"{name} is a picture of mode {plain.mode}, not a label map: one number of 8 or 16 bits a "
                           "pixel")
    plain = plain if plain.mode in ("1", "L", "P") else plain.convert("I")
    plain = _middle(plain, size, "NEAREST") if size else plain
    return np.asarray(plain).astype(np.uint16)


def transparent(raw: bytes, size: int, name: str = "the mask") -> Bool[np.ndarray, "H W"]:
    """Where a picture is transparent, or white where it has no transparency: its middle square, size x size."""
    def clear(picture):                                                             # noqa: ANN001, ANN202
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            return picture.convert("RGBA").getchannel("A").point(lambda a: 255 * (a < 128))
        return picture.convert("L")
    return np.asarray(_middle(_opened(raw, name, clear), size, "NEAREST")) > 127


def encode(pixels: UInt8[np.ndarray, "C H W"]) -> bytes:
    """PNG bytes of a picture with one or three channels."""
    out = io.BytesIO()
    picture(pixels).save(out, format="PNG")
    return out.getvalue()


def grid(pictures: UInt8[np.ndarray, "N C H W"], columns: int = 0, gap: int = 2) -> UInt8[np.ndarray, "C h w"]:
    """Pictures side by side, row by row, on white; as many a row as make a square unless `columns` says it."""
    count, channels, height, width = pictures.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = -(-count // columns)
    sheet = np.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8)
    for number, one in enumerate(pictures):
        top, left = (gap + place * (side + gap) for place, side in zip(divmod(number, columns), (height, width),
                                                                       strict=True))
        sheet[:, top:top + height, left:left + width] = one
    return sheet


def picture(pixels: UInt8[np.ndarray, "C H W"]):                                    # noqa: ANN201 - Pillow is lazy
    """A Pillow image of an array."""
    from PIL import Image
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _opened(raw: bytes, name: str, of: Callable[..., Any]):                          # noqa: ANN202 - Pillow is lazy
    """What `of` makes of the opened picture; RequestError for bytes that cannot be trusted."""
    from PIL import Image, ImageFile  # 0.05 s that a run without pictures does not pay
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
                if picture.width * picture.height > PIXELS:
                    raise RequestError(f"{name} has {picture.width} x {picture.height} pixels, more than {PIXELS:,}")
                picture.load()
                return of(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{name} is no picture that can be read ({error}); it must be whole and one of "
                           f"{', '.join(FORMATS)}") from None


def _opaque(picture):                                                               # noqa: ANN001, ANN202
    """The picture over white."""
    from PIL import Image
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    over = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)


def _middle(picture, size: int, how: str):                                          # noqa: ANN001, ANN202
    """Its middle square, size x size."""
    from PIL import Image
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling[how])
