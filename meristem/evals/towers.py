"""What tasks about pictures and texts share: two towers, their vectors of texts, and what needs no network.

    rank(subject, pixels, ["a red circle", "a blue square"])    # [N, 2]: how well each text fits each picture
"""
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from meristem.data.pictures import captions
from meristem.evals.pictures import RAW, Pictured, Seen, raw, vectors
from meristem.evals.subject import Subject

TOGETHER = 512                          # texts a forward pass


@runtime_checkable
class Towers(Protocol):
    """A model that puts pictures and texts into one space."""

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, E], vectors of length 1."""
        ...

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, E], vectors of length 1."""
        ...


class Compared(Pictured):
    """Base class of tasks in which pictures are compared with texts."""

    def fits(self, module: nn.Module) -> str:
        """Two towers are needed."""
        both = isinstance(module, Towers) and vars(module.config).get("part") == "both"
        return "" if both else "this model does not compare pictures with texts; one with two towers (clip) does"


@torch.no_grad()
def text_vectors(subject: Subject, texts: Sequence[str]) -> Float[Tensor, "N E"]:
    """One vector of length 1 a text, read as in training: cut to the context and closed by the end token."""
    module = subject.module
    assert isinstance(module, Towers)
    tokens = torch.from_numpy(captions(subject.codec, texts, subject.context)[0][:, :-1].astype(np.int64))
    return torch.cat([module.embed_texts(some).float() for some in tokens.split(TOGETHER)])


def rank(subject: Subject, pixels: UInt8[np.ndarray, "N C H W"], texts: Sequence[str]) -> Float[Tensor, "N M"]:
    """The cosine of each picture with each text."""
    return vectors(subject.module, pixels) @ text_vectors(subject, texts).T


def looked_up(train: Seen, test: Seen, texts: Sequence[str]) -> Float[Tensor, "N M"]:
    """The same from pixels and words: the Jaccard similarity of each text and the caption of the training picture that
    is nearest in its pixels."""
    x, y = raw(train.pixels), raw(test.pixels)
    nearest = torch.cat([torch.cdist(some, x).argmin(1) for some in y.split(TOGETHER)])
    asked = [_words(text) for text in texts]
    table = {row: [len(own & words) / max(1, len(own | words)) for words in asked]
             for row in nearest.unique().tolist() for own in [_words(train.captions[row])]}
    return torch.tensor([table[row] for row in nearest.tolist()])


def training(task: Pictured) -> Seen:
    """The training pictures that have a caption, at the side of the baselines."""
    train = Seen.of(task.corpus, "train", RAW)
    return train.rows([row for row, text in enumerate(train.captions) if text])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
