"""Sounds: classes of them, speech to text, and encoders that learn without labels.

Every recipe takes rows {"audio": "a.wav", "text": "seven", "label": "7"} beside their files (WAV; FLAC and OGG with the
extra media), or procedural words: `meristem curate toy:tones --out runs/tones`. Clips have one second at 8 kHz; for
longer ones raise model.places (20 ms each) or model.samples, for better ones model.rate.
"""
from collections.abc import Mapping
from typing import Any

from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.generate.speak import marks

LETTERS = Data(codec=Part("char"), examples="sounds")
EAR: Mapping[str, Any] = {"places": 50, "mels": 40, "rate": 8000, "dim": 96, "layers": 3, "heads": 4, "std": 0.05}
VOICES: Mapping[str, Any] = {"speed": 0.25, "gain": 6.0, "noise": 0.1, "shift": 0.3, "bands": 8, "times": 15}
WAVES: Mapping[str, Any] = {"rate": 8000, "samples": 8000, "dims": [64, 96, 96, 128], "strides": [5, 4, 4, 2],
                            "kernels": [10, 8, 4, 2], "norm": "layer", "before": True, "bias": True, "dim": 128,
                            "layers": 3, "heads": 4, "reach": 31, "groups": 8}
EAR_OF_WORDS: Mapping[str, Any] = {"rate": 8000, "samples": 6400, "channels": 16, "strides": [4, 5, 8], "latent": 32,
                                   "levels": 3, "codes": 64}


def spoken() -> Run:
    """The class of a sound by a small Whisper encoder; voices are varied, so that others are understood.

    Command: `meristem pretrain spoken data.corpus=SOUNDS.jsonl --out runs/spoken`. CPU time: 0.95 minutes. Expected:
    58 % of the digits of a held-out voice, as many as logistic regression on the spectrum (docs/results.md, I10).
    """
    return Run(
        name="spoken", model=Part("whisper", {**EAR, "head": "audio", "project": 96}),
        objective=Part("classify", {"changes": dict(VOICES)}), data=LETTERS,
        train=Train(steps=1200, batch=32, context=16, lr=1e-3, warmup=50, weight_decay=0.05, guard=False,
                    compile=False))


def listen() -> Run:
    """Speech to text by a small Whisper, letter by letter.

    Command: `meristem pretrain listen data.corpus=SPEECH.jsonl --out runs/listen`, then `meristem evaluate runs/listen
    --corpus SPEECH.corpus --tasks word_errors`. CPU time: 1.3 minutes. Expected: 0.41 errors a word on digits of a
    held-out voice (docs/results.md, I10).
    """
    return Run(
        name="listen", model=Part("whisper", {**EAR, "decoder_layers": 2}),
        objective=Part("transcribe", {"changes": dict(VOICES)}), data=LETTERS,
        train=Train(steps=1200, batch=32, context=32, lr=1e-3, warmup=50, weight_decay=0.05, guard=False,
                    compile=False))


def clap() -> Run:
    """Sounds and words in one space: a small CLAP, which names sounds by texts that it is given.

    Command: `meristem pretrain clap data.corpus=SOUNDS.jsonl --out runs/clap`, then `meristem evaluate runs/clap
    --corpus SOUNDS.corpus --tasks sound_words`. CPU time: not measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="clap", model=Part("clap", {"text": {"dim": 64, "layers": 2, "heads": 4}, "rate": 8000, "seconds": 1.0,
                                         "fft": 0, "top": 0.0, "decibels": False, "mels": 32, "spec": 64, "patch": 4,
                                         "dim": 32, "depths": [2, 2], "heads": [2, 4], "window": 4, "project": 64}),
        objective=Part("sound_contrast", {"changes": dict(VOICES)}), data=LETTERS,
        train=Train(steps=800, batch=32, context=32, lr=1e-3, warmup=50, weight_decay=0.05, guard=False,
                    compile=False))


def wav2vec2() -> Run:
    """A small wav2vec 2.0 that learns from sounds without labels.

    Command: `meristem pretrain wav2vec2 data.corpus=SOUNDS.jsonl --out runs/wav2vec2`. CPU time: not measured yet.
    Expected: no score was measured yet.
    """
    return Run(
        name="wav2vec2", model=Part("wav2vec2", {**WAVES, "head": "contrast", "codes": 40, "code_dim": 64,
                                                 "project": 64}),
        objective=Part("speech_contrast", {"stretch": 5}), data=LETTERS,
        train=Train(steps=1000, batch=16, context=16, lr=5e-4, warmup=100, weight_decay=0.01, guard=False,
                    compile=False, dtype="float32"))


def hubert() -> Run:
    """A small HuBERT: the clusters of hidden stretches of sound; in a second round those of what a first one hears.

    Command: `meristem pretrain hubert data.corpus=SOUNDS.jsonl --out runs/hubert`, then with
    objective.teacher=runs/hubert, whose layer is clustered by k-means. CPU time: not measured yet.
    Expected: no score was measured yet.
    """
    return Run(
        name="hubert", model=Part("wav2vec2", {**WAVES, "kind": "hubert", "head": "clusters", "clusters": 64}),
        objective=Part("masked_clusters", {"stretch": 5}), data=LETTERS,
        train=Train(steps=1000, batch=16, context=16, lr=5e-4, warmup=100, weight_decay=0.01, guard=False,
                    compile=False, dtype="float32"))


def letters() -> Run:
    """Speech to letters by CTC on an encoder that has heard sounds before (`base`), or on a fresh one.

    Command: `meristem pretrain letters base=runs/hubert data.corpus=SPEECH.jsonl --out runs/letters`. CPU time: not
    measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="letters", model=Part("wav2vec2", {**WAVES, "kind": "hubert", "head": "ctc"}),
        objective=Part("ctc", {"changes": {"speed": 0.2, "gain": 6.0, "noise": 0.1}}), data=LETTERS,
        train=Train(steps=1000, batch=16, context=32, lr=5e-4, warmup=100, weight_decay=0.01, guard=False,
                    compile=False, dtype="float32"))


def audio_codec() -> Run:
    """A small neural codec: 50 frames of 3 codewords of 64 a second, 900 bits.

    Command: `meristem pretrain audio_codec data.corpus=SOUNDS.jsonl --out runs/audio_codec`. CPU time: not measured
    yet. Expected: no score was measured yet.
    """
    return Run(
        name="audio_codec", model=Part("audio_codec", dict(EAR_OF_WORDS)), objective=Part("resound", {}), data=LETTERS,
        train=Train(steps=1500, batch=8, context=16, lr=1e-3, warmup=50, weight_decay=0.0, guard=False, compile=False,
                    dtype="float32"))


def speak() -> Run:
    """A decoder that says a text in the codewords of `audio_codec`, as tokens of its own vocabulary.

    Command: `meristem pretrain speak data.corpus=SPEECH.jsonl objective.ear=runs/audio_codec --out runs/speak`, then
    `meristem generate runs/speak seven --out seven.wav`. CPU time: not measured yet. Expected: no score was measured
    yet.
    """
    codewords = marks(EAR_OF_WORDS["levels"], EAR_OF_WORDS["codes"])
    return Run(
        name="speak",
        model=Part("llama", {"dim": 128, "layers": 4, "heads": 4, "hidden": 352, "context": 160, "qk_norm": True}),
        objective=Part("sound_tokens", {}),
        data=Data(codec=Part("bpe", {"vocab": 300 + len(codewords), "special": codewords}), examples="sounds"),
        train=Train(steps=1500, batch=16, context=16, lr=1e-3, warmup=50, guard=False, compile=False))
