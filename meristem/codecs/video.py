"""Films between bytes and arrays: animated GIF, PNG or WebP in, uint8 [F, C, H, W] out, through Pillow; GIF back.

    frames = decode(path.read_bytes(), size=32)                # every frame's middle, 32 x 32
    path.write_bytes(encode(frames, seconds=0.1))

Bytes are not trusted: the bounds of `codecs.image` hold for each frame, and a film has at most 10,000 of them.
"""
import io

import numpy as np
from jaxtyping import Int64, UInt8

from meristem.codecs import image
from meristem.core.errors import RequestError

LONGEST = 10_000                        # frames


def decode(raw: bytes, size: int = 0, channels: int = 3, name: str = "the film") -> UInt8[np.ndarray, "F C H W"]:
    """Every frame, as `codecs.image.decode` gives a picture; a still picture is a film of one."""
    from PIL import ImageSequence

    def frames(picture):                                                            # noqa: ANN001, ANN202
        count = getattr(picture, "n_frames", 1)
        if count > LONGEST:
            raise RequestError(f"{name} has {count} frames, more than {LONGEST:,}")
        made = []
        for frame in ImageSequence.Iterator(picture):
            plain = image._opaque(frame).convert(image.MODES[channels])
            made.append(np.atleast_3d(np.asarray(image._middle(plain, size, "BICUBIC") if size else plain)))
        return np.stack(made).transpose(0, 3, 1, 2)
    return image._opened(raw, name, frames)


def encode(frames: UInt8[np.ndarray, "F C H W"], seconds: float = 0.1) -> bytes:
    """GIF bytes that repeat for ever; each frame is shown for so many seconds, to a hundredth."""
    out = io.BytesIO()
    first, *more = [image.picture(frame) for frame in frames]
    first.save(out, format="GIF", save_all=True, append_images=more, duration=max(10, round(seconds * 1000)), loop=0)
    return out.getvalue()


def evenly(count: int, wanted: int) -> Int64[np.ndarray, "wanted"]:
    """Which of `count` frames make a film of `wanted`, spread over all of it; the last is repeated if it is short."""
    return np.linspace(0, count - 1, wanted).round().astype(np.int64) if count >= wanted else np.minimum(
        np.arange(wanted), count - 1)


def side_by_side(films: UInt8[np.ndarray, "N F C H W"], columns: int = 0) -> UInt8[np.ndarray, "F C h w"]:
    """Films as one, in a grid (`codecs.image.grid`)."""
    return np.stack([image.grid(some, columns) for some in films.swapaxes(0, 1)])
