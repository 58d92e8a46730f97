"""Sound: what is written is read, frames are Whisper's, resampling keeps a tone, damaged files are refused."""
import io
import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs import audio
from meristem.core.errors import RequestError


def tone(hz: float, rate: int, seconds: float = 0.2) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def wav(samples: bytes, width: int, channels: int = 1, rate: int = 8000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(samples)
    return out.getvalue()


def test_what_is_written_is_read() -> None:
    x = tone(440, 8000)
    back, rate = audio.opened(audio.encode(x, 8000))
    assert rate == 8000 and back.shape == (1600, 1) and np.abs(back[:, 0] - x).max() < 1 / 32000


def test_every_width_of_whole_numbers() -> None:
    for width, raw in ((1, b"\x00\x80\xff"), (2, struct.pack("<3h", -32768, 0, 32767)),
                       (3, b"\x00\x00\x80" + b"\x00" * 3 + b"\xff\xff\x7f"),
                       (4, struct.pack("<3i", -(2**31), 0, 2**31 - 1))):
        np.testing.assert_allclose(audio.opened(wav(raw, width))[0][:, 0], [-1, 0, 1], atol=1 / 127)
    stereo = audio.decode(wav(struct.pack("<4h", 16384, 0, -16384, 0), 2, channels=2))
    np.testing.assert_allclose(stereo, [0.25, -0.25])


@pytest.mark.parametrize("mels", [80, 128])
def test_frames_are_those_of_whisper(mels: int) -> None:
    from transformers import WhisperFeatureExtractor
    x = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32) + tone(300, 16000, 1.0)
    theirs = WhisperFeatureExtractor(feature_size=mels, chunk_length=1)
    want = theirs(x, sampling_rate=16000, return_tensors="np").input_features[0]
    np.testing.assert_allclose(audio.log_mel(x, audio.Mel(mels=mels)), want, atol=2e-5)
    np.testing.assert_allclose(audio.log_mel(x, audio.Mel(mels=mels)),
                               theirs._np_extract_fbank_features(x[None], "cpu")[0], atol=1e-6)
    both = audio.log_mel(np.stack([x, x / 9]), audio.Mel(mels=mels))
    np.testing.assert_array_equal(both[0], audio.log_mel(x, audio.Mel(mels=mels)))


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (16000, 8000), (22050, 16000)])
def test_a_tone_stays_that_tone_and_what_does_not_fit_vanishes(old: int, new: int) -> None:
    got = audio.resample(tone(700, old), old, new)
    want = tone(700, new)
    assert len(got) == len(want)
    np.testing.assert_allclose(got[200:-200], want[200:-200], atol=2e-3)
    if new < old:
        assert np.abs(audio.resample(tone(0.7 * old / 2 + new / 4, old), old, new)[200:-200]).max() < 5e-3


def test_loudness_of_wav2vec() -> None:
    from transformers import Wav2Vec2FeatureExtractor
    x = tone(200, 16000) + 0.3
    want = Wav2Vec2FeatureExtractor()(x, sampling_rate=16000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(audio.normal(x), want, atol=1e-5)


def test_other_formats_through_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    x = tone(440, 16000)
    for name in ("a.flac", "a.ogg", "b.wav"):
        more = {"subtype": "FLOAT"} if name == "b.wav" else {}
        soundfile.write(tmp_path / name, x, 16000, **more)
        got = audio.decode((tmp_path / name).read_bytes(), 8000)
        assert len(got) == 1600 and np.abs(got[200:1400] - tone(440, 8000)[200:1400]).max() < 0.05


def test_lies_and_damage_are_one_line() -> None:
    good = audio.encode(tone(440, 8000), 8000)
    lying = good[:40] + struct.pack("<I", 1 << 30) + good[44:]
    fast = good[:24] + struct.pack("<I", 2**31) + good[28:]
    for raw, what in ((lying, "samples, more than"), (good[:40], "read|early"), (fast, "samples a second"),
                      (good[:44], "samples"), (b"RIFF", "early|read"), (b"\x00" * 99, "no sound|soundfile"),
                      (b"fLaC" + b"\xff" * 99, "no sound|soundfile"), (b"", "no sound|soundfile")):
        with pytest.raises(RequestError, match=what):
            audio.decode(raw, name="x.wav")
    with pytest.raises(RequestError, match="too few"):
        audio.log_mel(np.zeros(100, dtype=np.float32))
