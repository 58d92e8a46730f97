"""Pictures between bytes and arrays: PNG, JPEG, WebP, GIF or BMP in, uint8 [C, H, W] out, through Pillow.

    pixels = decode(path.read_bytes(), size=64)                # the middle of it, 64 x 64, three channels
    path.write_bytes(encode(pixels))                           # PNG

Bytes are not trusted: a format that is not listed, more than 50 million pixels (which a few kB can claim to hold) or
data that end early are one `RequestError`, raised before anything is unpacked. Transparency lies on white.
"""
import io
import warnings

import numpy as np
from jaxtyping import UInt8

from meristem.core.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PIXELS = 50_000_000                     # Pillow itself warns at 89 million and refuses at 179 million
MODES = {1: "L", 3: "RGB"}


def decode(raw: bytes, size: int = 0, channels: int = 3, name: str = "the picture") -> UInt8[np.ndarray, "C H W"]:
    """A picture's pixels; with a `size` its middle square, scaled to size x size (bicubic, anti-aliased)."""
    from PIL import Image, ImageFile  # 0.05 s that a run without pictures does not pay
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
                if picture.width * picture.height > PIXELS:
                    raise RequestError(f"{name} has {picture.width} x {picture.height} pixels, more than {PIXELS:,}")
                picture.load()
                plain = _opaque(picture).convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{name} is no picture that can be read ({error}); it must be whole and one of "
                           f"{', '.join(FORMATS)}") from None
    if size:
        plain = _middle(plain).resize((size, size), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(plain)).transpose(2, 0, 1)


def encode(pixels: UInt8[np.ndarray, "C H W"]) -> bytes:
    """PNG bytes of a picture with one or three channels."""
    out = io.BytesIO()
    picture(pixels).save(out, format="PNG")
    return out.getvalue()


def picture(pixels: UInt8[np.ndarray, "C H W"]):                                    # noqa: ANN201 - Pillow is lazy
    """A Pillow image of an array."""
    from PIL import Image
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _opaque(picture):                                                               # noqa: ANN001, ANN202
    """The picture over white."""
    from PIL import Image
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    over = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)


def _middle(picture):                                                               # noqa: ANN001, ANN202
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
