"""Sounds named by words alone: of the texts of the test split, the one whose vector lies nearest to the sound's.

Wu et al. 2022, https://arxiv.org/abs/2211.06687, section 4.3 (zero-shot classification by the names of classes).
Baseline: logistic regression on the spectrum, which cannot name what training never named.

    meristem evaluate runs/clap --corpus CORPUS --tasks sound_words
"""
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meristem.codecs.audio import fit
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.data.pictures import captions
from meristem.data.sounds import Form
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.classic import outcome
from meristem.evals.sounds import TOGETHER, Sounding, by_spectrum
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating

ON_REQUEST = True                       # only models with a tower of sounds and one of texts can be asked
METRIC = Metric("sound_words", "held-out sounds whose text is nearest among all of the split", "share", "share", True)


@runtime_checkable
class Hearing(Protocol):
    """A model that puts sounds and texts into one space."""

    def embed_audio(self, source: Tensor) -> Tensor:
        """[B, M, F] -> [B, E], vectors of length 1."""
        ...

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, E], vectors of length 1."""
        ...


class SoundWords(Sounding):
    """Items are test sounds with a text."""

    name, version, count, field = "sound_words", 1, 10_000, "text"
    metrics = (METRIC,)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The nearest text of each sound."""
        if not isinstance(subject, Subject) or not isinstance(subject.module, Hearing):
            raise RequestError("sound_words needs a model that compares sounds with texts; train one with recipe clap")
        names = sorted({item.answer for item in items})
        tokens = torch.from_numpy(captions(subject.codec, names, subject.context)[0][:, :-1].astype(np.int64))
        with evaluating(subject.module):
            texts = subject.module.embed_texts(tokens).float()
            said = (heard(subject.module, self.heard(items, subject.module)) @ texts.T).argmax(1)
        return outcome(METRIC.name, [names[i] for i in said.tolist()], items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Logistic regression on the log-mel spectrum of the first second."""
        said = by_spectrum(corpus, items, lambda d: d.text, seed)
        return {METRIC.name: Baseline("logistic regression on the spectrum", outcome(METRIC.name, said, items))}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """A guess among the texts."""
        count = len({item.answer for item in items})
        return {METRIC.name: Reference(1 / count, f"a guess among {count} texts")}


def heard(module: Any, sounds: Sequence[np.ndarray]) -> Float[Tensor, "N E"]:
    """One vector of length 1 a sound at the model's rate, cut or padded to its length."""
    form, out = Form.wanted(module.config), []
    for start in range(0, len(sounds), TOGETHER):
        some = sounds[start:start + TOGETHER]
        given = form.of(np.stack([fit(x, form.count) for x in some]), np.array([min(len(x), form.count) for x in some]))
        out.append(module.embed_audio(given["mel"]).float())
    return torch.cat(out)


TASK = SoundWords()
