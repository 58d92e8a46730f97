"""Films between bytes and arrays: animated GIF, PNG or WebP in, uint8 [F, C, H, W] out, through Pillow; GIF back.

    frames = decode(path.read_bytes(), size=32)                # every frame's middle, 32 x 32
    path.write_bytes(encode(frames, seconds=0.1))              # encode(frames, form="mp4"): H.264

MP4 (and MOV) goes both ways through PyAV, the extra `media`. Bytes are not trusted: the bounds of `codecs.image` hold
for each frame, and a film has at most 10,000 of them.
"""
import io
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from meristem.codecs import image
from meristem.core.errors import RequestError

LONGEST = 10_000                        # frames
BOX = slice(4, 8), b"ftyp"              # where an MP4 says what it is


def decode(raw: bytes, size: int = 0, channels: int = 3, name: str = "the film") -> UInt8[np.ndarray, "F C H W"]:
    """Every frame, as `codecs.image.decode` gives a picture; a still picture is a film of one."""
    if raw[BOX[0]] == BOX[1]:
        return _mp4(raw, size, channels, name)
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


def is_film(raw: bytes) -> bool:
    """Whether these are the bytes of an MP4 or of a GIF with several frames; RequestError for a GIF that is damaged."""
    if raw[BOX[0]] == BOX[1]:
        return True
    return raw[:4] == b"GIF8" and image._opened(raw, "the film", lambda picture: getattr(picture, "n_frames", 1)) > 1


def encode(frames: UInt8[np.ndarray, "F C H W"], seconds: float = 0.1, form: Literal["gif", "mp4"] = "gif") -> bytes:
    """GIF bytes that repeat for ever, or an MP4; each frame is shown for so many seconds, to a hundredth.

    In an MP4 each pixel is two wide and two high: H.264 as browsers play it keeps colours for squares of four.
    """
    out = io.BytesIO()
    if form == "mp4":
        av, wide = _av(), frames.repeat(2, 2).repeat(2, 3)
        with av.open(out, "w", format="mp4") as film:
            stream = film.add_stream("libx264", rate=max(1, round(1 / seconds)), options={"crf": "12"})
            stream.height, stream.width, stream.pix_fmt = *wide.shape[2:], "yuv420p"
            for frame in np.broadcast_to(wide, (len(wide), 3, *wide.shape[2:])):
                film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))))
            film.mux(stream.encode())
        return out.getvalue()
    first, *more = [image.picture(frame) for frame in frames]
    first.save(out, format="GIF", save_all=True, append_images=more, duration=max(10, round(seconds * 1000)), loop=0)
    return out.getvalue()


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise RequestError("MP4 needs a package: pip install 'meristem[media]' (PyAV); GIF needs none") from None
    return av


def _mp4(raw: bytes, size: int, channels: int, name: str) -> UInt8[np.ndarray, "F C H W"]:
    """The frames of an MP4."""
    av, made = _av(), list[np.ndarray]()
    try:
        with av.open(io.BytesIO(raw)) as film:
            stream = film.streams.video[0]
            if stream.width * stream.height > image.PIXELS:
                raise RequestError(f"{name} has {stream.width} x {stream.height} pixels, more than {image.PIXELS:,}")
            for frame in film.decode(stream):
                if len(made) >= LONGEST:
                    raise RequestError(f"{name} has more than {LONGEST:,} frames")
                plain = frame.to_image().convert(image.MODES[channels])
                made.append(np.atleast_3d(np.asarray(image._middle(plain, size, "BICUBIC") if size else plain)))
    except (av.FFmpegError, IndexError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{name} is no film that can be read: {error}") from None
    if not made:
        raise RequestError(f"{name} holds no frames")
    return np.stack(made).transpose(0, 3, 1, 2)


def evenly(count: int, wanted: int) -> Int64[np.ndarray, "wanted"]:
    """Which of `count` frames make a film of `wanted`, spread over all of it; the last is repeated if it is short."""
    return np.linspace(0, count - 1, wanted).round().astype(np.int64) if count >= wanted else np.minimum(
        np.arange(wanted), count - 1)


def side_by_side(films: UInt8[np.ndarray, "N F C H W"], columns: int = 0) -> UInt8[np.ndarray, "F C h w"]:
    """Films as one, in a grid (`codecs.image.grid`)."""
    return np.stack([image.grid(some, columns) for some in films.swapaxes(0, 1)])
