"""Films as GIF and as MP4: what goes in comes back, damaged bytes are one line."""
import numpy as np
import pytest

from meristem.codecs.video import decode, encode
from meristem.core.errors import RequestError


def film(channels: int = 3) -> np.ndarray:
    """Seven frames in which a square moves right."""
    frames = np.full((7, channels, 16, 16), 240, dtype=np.uint8)
    for n, frame in enumerate(frames):
        frame[:, 4:8, n:n + 4] = np.array([200, 30, 60], dtype=np.uint8)[:channels, None, None]
    return frames


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_there_and_back(channels: int) -> None:
    pytest.importorskip("av")
    raw = encode(film(channels), seconds=0.1, form="mp4")
    back = decode(raw, 16, channels)
    assert raw[4:8] == b"ftyp" and back.shape == (7, channels, 16, 16)
    assert np.abs(back.astype(int) - film(channels)).mean() < 8
    assert decode(raw, 0, channels).shape == (7, channels, 32, 32), "two by two pixels for each"


def test_damaged_films() -> None:
    pytest.importorskip("av")
    raw = encode(film(), form="mp4")
    for wrong in (raw[:60], raw[:4] + b"ftyp" + b"\0" * 40, encode(film())[:40]):
        with pytest.raises(RequestError, match="no film|no picture|no frames"):
            decode(wrong)


def test_gif_there_and_back() -> None:
    assert np.array_equal(decode(encode(film())), film())
