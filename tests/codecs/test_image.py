"""Pictures in and out, and bytes that are none."""
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from meristem.codecs.image import decode, encode, grid
from meristem.core.errors import RequestError


def noise(channels: int = 3, height: int = 5, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_byte(channels: int) -> None:
    pixels = noise(channels)
    assert np.array_equal(decode(encode(pixels), channels=channels), pixels)


def test_the_middle_square_is_scaled() -> None:
    wide = np.zeros((3, 8, 24), dtype=np.uint8)
    wide[:, :, 8:16] = 200
    assert np.array_equal(decode(encode(wide), size=4), np.full((3, 4, 4), 200))
    assert decode(encode(noise()), size=16).shape == (3, 16, 16)


def test_transparency_lies_on_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(out, format="PNG")
    assert np.array_equal(decode(out.getvalue()), np.full((3, 2, 2), 255))
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    out = io.BytesIO()
    palette.save(out, format="PNG", transparency=0)
    assert np.array_equal(decode(out.getvalue()), np.full((3, 2, 2), 255))


def bomb(side: int) -> bytes:
    """A PNG of a few kB that claims side x side pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@pytest.mark.parametrize(("raw", "why"), [
    (b"", "no picture"), (b"GIF89a", "no picture"), (encode(noise(3, 60, 60))[:4000], "no picture"),
    (bomb(9000), "81000000|9000"), (bomb(30000), "30000|no picture"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture")])
def test_bytes_that_are_no_picture(raw: bytes, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        decode(raw)


def test_a_grid_shows_every_picture() -> None:
    pictures = np.stack([np.full((3, 4, 6), 10 * n, dtype=np.uint8) for n in range(5)])
    sheet = grid(pictures)
    assert sheet.shape == (3, 2 * 6 + 2, 3 * 8 + 2) and (sheet[:, 2:6, 10:16] == 10).all()
    assert (sheet[:, 8:12, 10:16] == 40).all() and (sheet[:, 8:, 18:] == 255).all()
    assert grid(pictures, columns=5).shape == (3, 8, 42)
