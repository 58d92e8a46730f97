"""Batches of sounds with what is said in them and their labels, named by `run.data.examples=sounds`.

Every sound of a split is decoded once at the rate and to the length that the model wants and kept as 16-bit samples in
a memory-mapped file beside the corpus (`sounds/<rate>-<count>/`, checksummed); a step's rows, and how each is changed
while training (`Changes`), are functions of (seed, step, row). A model of frames is given log-mel frames, any other the
samples with mean 0 and deviation 1 over what was heard.

    source = Sounds.of(corpus, codec, "train", Form(16_000, 16_000, mels=80), context=16, order=(64, seed, 0))
    source(0)[0]["mel"]                                        # float32 [64, 80, 100]
"""
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from meristem.codecs.audio import Mel, decode, fit, log_mel, normal
from meristem.codecs.base import Codec
from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.core.types import Batch
from meristem.corpus.pictures import Tar
from meristem.corpus.store import SPLITS, Corpus
from meristem.data.loader import Order
from meristem.data.pictures import captions

ENTRY = "sounds"
TONES = 8                               # from 0 Hz to half the rate, between them straight lines


@dataclass(frozen=True)
class Changes:
    """How a sound is changed for training; every number is the most, drawn evenly on both sides, 0 is none."""

    speed: float = 0.0                  # as a share: pitch and formants move with it, as from voice to voice
    gain: float = 0.0                   # in decibels
    noise: float = 0.0                  # white, over the sound's own deviation
    shift: float = 0.0                  # seconds later
    tone: float = 0.0                   # decibels up or down at each of TONES frequencies, as through other microphones
    bands: int = 0                      # log-mel bands hidden (SpecAugment: Park et al. 2019, arXiv 1904.08779)
    times: int = 0                      # and frames


@dataclass(frozen=True)
class Form:
    """What a model hears: `count` samples, `rate` a second, as they are or as frames of `mels` bands."""

    rate: int
    count: int
    mels: int = 0
    changes: Changes = field(default_factory=Changes)
    fft: int = 0                        # samples of a window; 0: 25 ms
    top: float = 0.0                    # Hz of the highest band; 0: rate / 2
    decibels: bool = False              # as CLAP hears: a short sound as often as it fits, in decibels

    @classmethod
    def wanted(cls, config: Any, changes: Changes | None = None) -> "Form":
        """What the config of a model of frames asks for."""
        c = vars(config)
        return cls(c["rate"], config.samples, c["mels"], changes or Changes(), c.get("fft", 0), c.get("top", 0.0),
                   c.get("decibels", False))

    def frames(self) -> Mel:
        """A window every 10 ms."""
        return Mel(self.rate, self.fft or self.rate // 40, self.rate // 100, self.mels, self.top, self.decibels)

    def of(self, samples: Float32[np.ndarray, "B N"], lengths: np.ndarray) -> Batch:
        """The field of a batch that a model of this form reads, and how much of it was heard."""
        if self.decibels:
            samples = np.stack([fit(np.tile(one[:n], len(one) // max(1, n)), len(one))
                                for one, n in zip(samples, lengths.tolist(), strict=True)])
        if self.mels:
            return {"mel": torch.from_numpy(log_mel(samples, self.frames())),
                    "heard": torch.from_numpy(-(-lengths // self.frames().hop))}
        rows = [fit(normal(one[:n]), len(one)) for one, n in zip(samples, lengths.tolist(), strict=True)]
        return {"sound": torch.from_numpy(np.stack(rows)), "heard": torch.from_numpy(lengths)}


@dataclass(frozen=True)
class Sounds:
    """A source for `Trainer`: rows of one split, shuffled anew each epoch."""

    samples: np.ndarray                 # int16 [N, count], memory-mapped
    lengths: np.ndarray                 # int64 [N]: samples that were heard
    tokens: np.ndarray                  # int32 [N, T+1]
    said: np.ndarray                    # of each text with its end token
    labels: np.ndarray | None           # int64 [N]
    form: Form
    order: Order

    @classmethod
    def of(cls, corpus: Corpus, codec: Codec, split: str, form: Form, context: int, order: tuple[int, int, int],
           progress: Progress = SILENT) -> "Sounds":
        """The sounds of a split in one form; `order` is (batch, seed, micro)."""
        documents = [d for d in corpus.documents(split) if "audio" in d.fields]
        if not documents:
            raise RequestError(f'the {split} split of {corpus.folder} has no sounds; give rows with "audio"')
        names = {name: number for number, name in enumerate(corpus.summary.get("labels", []))}
        labels = None
        if all("label" in d.fields for d in documents):
            labels = np.array([names[d.fields["label"]] for d in documents])
        tokens, said = captions(codec, [d.text for d in documents], context)
        samples, lengths = stored(corpus, form, progress)[split]
        batch, seed, micro = order
        return cls(samples, lengths, tokens, said, labels, form, Order(len(documents), batch, seed, micro))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows, [np.random.default_rng(seed_of(self.order.seed, "changes", step, int(row)))
                                  for row in rows]) for rows in self.order(step)]

    def batch(self, which: np.ndarray, draws: list[np.random.Generator] | None = None) -> Batch:
        """Rows by number: mel [B, M, F] or sound [B, N], heard [B], tokens [B, T+1], segments [B, T], maybe labels [B].

        With `draws` each row is changed.
        """
        samples = self.samples[which].astype(np.float32) / 32768.0
        lengths = self.lengths[which].copy()
        for n, rng in enumerate(draws or ()):
            samples[n], lengths[n] = changed(samples[n], int(lengths[n]), self.form, rng)
        given = self.form.of(samples, lengths)
        for n, rng in enumerate(draws or ()):
            if "mel" in given:
                hide(given["mel"].numpy()[n], self.form.changes, rng)
        tokens = torch.from_numpy(self.tokens[which].astype(np.int64))
        inside = np.arange(tokens.shape[1] - 1) < self.said[which][:, None]
        labels = {} if self.labels is None else {"labels": torch.from_numpy(self.labels[which])}
        return {**given, "tokens": tokens, "segments": torch.from_numpy((~inside).astype(np.int64)),
                "weight": torch.ones(len(which)), **labels}

    def held_out(self, rows: int, limit: int) -> Iterator[Batch]:
        """At most `limit` rows in order, `rows` at a time; the last batch may be smaller."""
        count = min(limit, len(self.samples))
        return (self.batch(np.arange(start, min(start + rows, count))) for start in range(0, count, rows))


def changed(x: Float32[np.ndarray, "N"], heard: int, form: Form,
            rng: np.random.Generator) -> tuple[Float32[np.ndarray, "N"], int]:
    """One sound, faster or slower, later, of another tone, louder, with noise; and how many samples are heard."""
    how, count = form.changes, len(x)
    if how.speed:
        factor = 1 + how.speed * rng.uniform(-1, 1)
        at = np.arange(int(heard / factor)) * factor
        x = fit(np.interp(at, np.arange(heard), x[:heard]).astype(np.float32), count)
        heard = min(max(1, len(at)), count)
    if how.shift:
        later = min(int(how.shift * form.rate * rng.random()), max(0, count - heard))
        x, heard = np.concatenate([np.zeros(later, np.float32), x[:count - later]]), heard + later
    if how.tone:
        levels = how.tone * rng.uniform(-1, 1, TONES)
        bins = np.linspace(0, TONES - 1, count // 2 + 1)
        x = np.fft.irfft(np.fft.rfft(x) * 10 ** (np.interp(bins, np.arange(TONES), levels) / 20), count)
    if how.gain:
        x = x * np.float32(10 ** (how.gain * rng.uniform(-1, 1) / 20))
    if how.noise:
        level = how.noise * rng.random() * x.std()
        x = x + level * rng.standard_normal(count).astype(np.float32)
    return x.astype(np.float32), heard


def hide(frames: Float32[np.ndarray, "M F"], how: Changes, rng: np.random.Generator) -> None:
    """Put a stretch of bands and one of times, each up to what `how` says, to the mean, in place."""
    mean = frames.mean()
    for most, view in ((how.bands, frames), (how.times, frames.T)):
        width = int(rng.integers(0, min(most, len(view) - 1) + 1)) if most else 0
        first = int(rng.integers(0, len(view) - width + 1))
        view[first:first + width] = mean


def stored(corpus: Corpus, form: Form, progress: Progress = SILENT) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every split's samples [N, count] and lengths [N], decoded when first asked for; MachineError when damaged."""
    folder = corpus.folder / "sounds" / f"{form.rate}-{form.count}"
    if not folder.is_dir():
        with files.committed(folder) as made:
            for split in SPLITS:
                documents = [d for d in corpus.documents(split) if "audio" in d.fields]
                if not documents:
                    continue
                progress.stage(f"sounds of {split}", len(documents))
                tar, lengths = Tar(corpus.folder / f"{split}.tar"), []
                with open(made / f"{split}.bin", "wb") as f:
                    for number, document in enumerate(documents):
                        x = decode(tar[document.fields["audio"]], form.rate, document.source)
                        lengths.append(min(len(x), form.count))
                        f.write((np.clip(fit(x, form.count), -1, 1) * 32767).round().astype(np.int16).tobytes())
                        progress.update(number + 1)
                (made / f"{split}.lengths").write_bytes(np.array(lengths, dtype=np.int64).tobytes())
    if trouble := files.verify(folder):
        raise MachineError(f"the sounds in {folder} cannot be trusted: {trouble}; remove that folder, it is made again")
    return {file.stem: (np.memmap(file, dtype=np.int16, mode="r").reshape(-1, form.count),
                        np.frombuffer(file.with_suffix(".lengths").read_bytes(), dtype=np.int64))
            for file in sorted(folder.glob("*.bin"))}
