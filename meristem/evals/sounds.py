"""What tasks about sounds share: the sounds of a split at the model's rate, and the ways to ask a model of them.

    sounds = of_split(corpus, "test"); samples(corpus, sounds, module)         # a list of float32 [N]
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.codecs.audio import Mel, decode, log_mel
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch, Document
from meristem.corpus.pictures import Tar
from meristem.corpus.store import Corpus
from meristem.data.sounds import Form, stored
from meristem.evals.base import Item
from meristem.evals.bound import OnCorpus, drawn
from meristem.evals.classic import Logistic
from meristem.evals.pictures import numbers
from meristem.generate.base import evaluating

TOGETHER = 32
RAW = Form(8000, 8000)                  # what the baseline hears of each sound: a second at 8 kHz


class Sounding(OnCorpus):
    """Base class of tasks about the sounds of a corpus; items are test sounds, their answer is `field`."""

    name, field = "", "label"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` test sounds that have an answer; the prompt is a sound's name in the tar."""
        found = [d for d in of_split(corpus, "test") if d.fields.get(self.field)]
        return [Item(d.id, d.fields["audio"], d.fields[self.field], evidence=d.id)
                for d in drawn(found, limit, seed, self.name)]

    def heard(self, items: Sequence[Item], module: nn.Module) -> list[np.ndarray]:
        """The samples of the items at the model's rate."""
        config = vars(module.config)
        if "rate" not in config:
            raise RequestError("this model hears nothing; ask it another task")
        tar = Tar(self.corpus.folder / "test.tar")
        return [decode(tar[item.prompt], config["rate"], item.prompt) for item in items]


def of_split(corpus: Corpus, split: str) -> list[Document]:
    """The documents with a sound."""
    return [d for d in corpus.documents(split) if "audio" in d.fields]


def logits(module: nn.Module, sounds: Sequence[np.ndarray]) -> Float[Tensor, "N L"]:
    """What a model with classes says of sounds at its rate, cut or padded to its length."""
    config: Any = module.config
    form = Form(config.rate, config.samples, vars(config).get("mels", 0))
    out = []
    with evaluating(module):
        for start in range(0, len(sounds), TOGETHER):
            some = sounds[start:start + TOGETHER]
            samples = np.zeros((len(some), form.count), dtype=np.float32)
            for row, sound in zip(samples, some, strict=True):
                row[:len(sound)] = sound[:form.count]
            given: Batch = form.of(samples, np.array([min(len(s), form.count) for s in some]))
            out.append(module(source=given["mel"]) if "mel" in given else module(given["sound"], given["heard"]))
    return torch.cat(out).float()


def plain(corpus: Corpus, split: str) -> Float[Tensor, "N E"]:
    """Sounds as features without a network: 40 log-mel bands, their mean and deviation over ten stretches of time."""
    samples, _ = stored(corpus, RAW)[split]
    frames = log_mel(samples.astype(np.float32) / 32768.0, Mel(RAW.rate, 200, 80, 40))
    parts = np.array_split(frames, 10, axis=-1)
    return torch.from_numpy(np.concatenate([f(part, axis=-1) for part in parts for f in (np.mean, np.std)], 1)).float()


def by_spectrum(corpus: Corpus, items: Sequence[Item], answer: Callable[[Document], str], seed: int) -> list[str]:
    """What logistic regression on `plain` features of the training sounds says of the items: the baseline."""
    train = of_split(corpus, "train")
    names, (classes,) = numbers([answer(d) for d in train])
    place = {d.id: row for row, d in enumerate(of_split(corpus, "test"))}
    asked = plain(corpus, "test")[[place[item.group] for item in items]]
    said = Logistic.tuned(plain(corpus, "train"), classes, len(names), seed).classes(asked)
    return [names[i] for i in said.tolist()]
