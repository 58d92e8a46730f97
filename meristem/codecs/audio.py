"""Sound between bytes and arrays: WAV, FLAC, OGG or MP3 in, samples from -1 to 1 out; resampling; log-mel frames.

    x = decode(path.read_bytes(), rate=16_000)                 # float32 [N], one channel
    path.write_bytes(encode(x, 16_000))                        # WAV, 16 bits
    frames = log_mel(x, Mel())                                 # float32 [80, N / 160], as Whisper reads them

PCM in WAV is read by the standard library, every other format through soundfile (the extra `media`). Bytes are not
trusted: what a header claims is compared with what is there, and more than SAMPLES samples, which a few kB can unpack
to, are one `RequestError`. Log-mel frames are Whisper's (Radford et al. 2022, https://arxiv.org/abs/2212.04356, section
2.2): Hann windows of 25 ms every 10 ms, Slaney's mel scale, log10, floor 8 below the loudest, then (x + 4) / 4.
"""
import functools
import io
import math
import wave
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from meristem.core.errors import RequestError

SAMPLES = 1 << 26                       # of all channels: 35 minutes of 32 kHz; 256 MB as float32
RATES = (1_000, 384_000)                # samples a second that a file may claim
CROSSINGS = 24                          # zeros of the resampling filter's sinc on each side
WIDTHS: dict[int, tuple[np.dtype[Any], float]] = {          # bytes of a sample: type, and what stands for 1
    1: (np.dtype("u1"), 128.0), 2: (np.dtype("<i2"), 32768.0), 4: (np.dtype("<i4"), 2147483648.0)}


@dataclass(frozen=True)
class Mel:
    """How samples become frames: `fft` samples a window, one every `hop`, energies of `mels` bands up to `top` Hz.

    `decibels` is CLAP's way (LAION's, by librosa): 10 log10 of each energy, no floor, and a frame at the end as well.
    """

    rate: int = 16_000
    fft: int = 400
    hop: int = 160
    mels: int = 80
    top: float = 0.0                    # 0: rate / 2
    decibels: bool = False


def decode(raw: bytes, rate: int = 0, name: str = "the sound") -> Float32[np.ndarray, "N"]:
    """The mean of all channels, resampled to `rate` samples a second (0: as it is)."""
    samples, own = opened(raw, name)
    mono = samples.mean(1, dtype=np.float32)
    return resample(mono, own, rate) if rate and rate != own else mono


def opened(raw: bytes, name: str = "the sound") -> tuple[Float32[np.ndarray, "N C"], int]:
    """All samples and their rate; RequestError for bytes that cannot be trusted."""
    if raw[:4] == b"RIFF":
        found = _pcm(raw, name)
        if found is not None:
            return found
    try:
        import soundfile  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError(f"{name} is no PCM in WAV; other sounds need a package: pip install soundfile") from None
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            _allowed(file.frames * file.channels, file.samplerate, name)
            blocks, total = [], 0
            while len(block := file.read(1 << 20, dtype="float32", always_2d=True)):
                blocks.append(block)
                if (total := total + block.size) > SAMPLES:
                    raise RequestError(f"{name} unpacks to more than {SAMPLES:,} samples")
            rate = int(file.samplerate)
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{name} is no sound that can be read: {error}") from None
    if not blocks or not all(np.isfinite(block).all() for block in blocks):
        raise RequestError(f"{name} holds no samples, or some that are no numbers")
    return np.concatenate(blocks), rate


def _pcm(raw: bytes, name: str) -> tuple[Float32[np.ndarray, "N C"], int] | None:
    """The samples of a WAV file of whole numbers; None for one of another kind."""
    try:
        with wave.open(io.BytesIO(raw)) as file:
            channels, width, rate, count = (file.getnchannels(), file.getsampwidth(), file.getframerate(),
                                            file.getnframes())
            _allowed(count * channels, rate, name)
            if count * channels * width > len(raw):
                raise RequestError(f"{name} says it has {count} samples, more than its {len(raw)} bytes can hold")
            data = file.readframes(count)
    except wave.Error as error:
        if "unknown format" in str(error):
            return None
        raise RequestError(f"{name} is no sound that can be read: {error}") from None
    except EOFError:
        raise RequestError(f"{name} ends early") from None
    if not data or len(data) < count * channels * width:
        raise RequestError(f"{name} holds {'no samples' if not data else 'fewer samples than it says'}")
    if width == 3:                                             # 24 bits: the upper three bytes of 32
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    kind, full = WIDTHS[width]
    samples = np.frombuffer(data, dtype=kind).astype(np.float32)
    return ((samples - 128.0 if width == 1 else samples) / np.float32(full)).reshape(-1, channels), rate


def _allowed(count: int, rate: int, name: str) -> None:
    if count > SAMPLES:
        raise RequestError(f"{name} has {count:,} samples, more than {SAMPLES:,}")
    if not RATES[0] <= rate <= RATES[1]:
        raise RequestError(f"{name} has {rate} samples a second; {RATES[0]:,} to {RATES[1]:,} are read")


def encode(samples: Float[np.ndarray, "N"], rate: int) -> bytes:
    """WAV bytes of one channel, 16 bits; what lies beyond -1 and 1 is cut."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767.0).round().astype("<i2").tobytes())
    return out.getvalue()


def resample(x: Float32[np.ndarray, "N"], old: int, new: int) -> Float32[np.ndarray, "M"]:
    """The same sound with `new` samples a second in place of `old`: a sinc in a Hann window, cut at the lower half.

    Outputs of one phase share their taps (Crochiere & Rabiner 1983, chapter 3), so each is one matrix product.
    """
    common = math.gcd(old, new)
    up, down = new // common, old // common
    cut = min(1.0, up / down)
    half = math.ceil(CROSSINGS / cut)
    length = -(-len(x) * up // down)
    padded = np.pad(x, (half, half + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    out = np.empty(length, dtype=np.float32)
    for phase in range(min(up, length)):
        first, rest = divmod(phase * down, up)
        at = np.arange(-half, half + 1) - rest / up
        taps = cut * np.sinc(cut * at) * np.cos(np.pi * at / (2 * half + 2)) ** 2
        rows = out[phase::up]
        rows[:] = windows[first::down][:len(rows)] @ taps.astype(np.float32)
    return out


def fit(x: Float32[np.ndarray, "N"], count: int) -> Float32[np.ndarray, "M"]:
    """Exactly `count` samples: what is longer is cut, what is shorter ends in silence."""
    return x[:count] if len(x) >= count else np.pad(x, (0, count - len(x)))


def normal(x: Float32[np.ndarray, "*B N"]) -> Float32[np.ndarray, "*B N"]:
    """Mean 0 and deviation 1, as wav2vec 2.0 hears sounds."""
    return ((x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-7)).astype(np.float32)


def log_mel(x: Float[np.ndarray, "*B N"], how: Mel | None = None) -> Float32[np.ndarray, "*B M F"]:
    """The frames of sounds, one every `hop` samples: N / hop of them, in decibels one more."""
    how = how or Mel()
    if x.shape[-1] <= how.fft // 2:
        raise RequestError(f"{x.shape[-1]} samples are too few for windows of {how.fft}")
    side = [(0, 0)] * (x.ndim - 1) + [(how.fft // 2, how.fft // 2)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, side, mode="reflect"), how.fft, axis=-1)
    count = x.shape[-1] // how.hop + how.decibels
    windows = windows[..., :count * how.hop:how.hop, :]
    power = np.abs(np.fft.rfft(windows * hann(how.fft))) ** 2                   # [..., F, bins]
    log = np.log10(np.maximum(power @ bands(how), 1e-10)).swapaxes(-1, -2)
    if how.decibels:
        return (10.0 * log).astype(np.float32)
    log = np.maximum(log, log.max((-1, -2), keepdims=True) - 8.0)
    return ((log + 4.0) / 4.0).astype(np.float32)


def hann(size: int) -> np.ndarray:
    """A Hann window that continues periodically."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


@functools.cache
def bands(how: Mel) -> np.ndarray:
    """Triangles on Slaney's mel scale, each of area 2 / width, [fft / 2 + 1, mels] (Slaney 1998, Auditory Toolbox)."""
    edges = hertz(np.linspace(mel(np.array(0.0)), mel(np.array(how.top or how.rate / 2)), how.mels + 2))
    at = np.linspace(0, how.rate / 2, how.fft // 2 + 1)[:, None]
    rise = (at - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - at) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rise, fall)) * (2.0 / (edges[2:] - edges[:-2]))


def mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1,000 Hz, 15 mels there, then 27 to a factor of 6.4."""
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 / math.log(6.4) * np.log(np.maximum(hz, 1000) / 1000))


def hertz(mels: np.ndarray) -> np.ndarray:
    """The inverse of `mel`."""
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(math.log(6.4) / 27 * (np.maximum(mels, 15) - 15)))
