"""What tasks about pictures share: the pictures of a split, a model's vectors of them, and the pictures themselves as
features for the baselines (`raw`).

    seen = Seen.of(corpus, "test", side=32, channels=3); vectors(module, seen.pixels)          # [N, E]

A task subclasses `Pictured`: `on(corpus)` gives it the corpus, and `train(module)` and `test(module, items)` the
pictures at the side that the model wants.
"""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.pictures import stored
from meristem.evals.base import Item
from meristem.evals.bound import OnCorpus, drawn
from meristem.nn.image import between

TOGETHER = 256                          # pictures a forward pass
RAW = 28                                # side at which pictures themselves are features: MNIST's own
POOL = 10_000                           # training pictures that are looked at, at most


@runtime_checkable
class Embeds(Protocol):
    """A model with a space that pictures are put into (CLIP's, shared with texts)."""

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, E]."""
        ...


@runtime_checkable
class Pools(Protocol):
    """A model that makes one vector of its features."""

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> a vector a place."""
        ...

    def pool(self, features: Tensor) -> Tensor:
        """All places -> [B, E]."""
        ...


@dataclasses.dataclass(frozen=True)
class Seen:
    """The pictures of one split: pixels and, row for row, ids, labels ("" for none) and captions."""

    pixels: UInt8[np.ndarray, "N C H W"]
    ids: list[str]
    labels: list[str]
    captions: list[str]

    @classmethod
    def of(cls, corpus: Corpus, split: str, side: int, channels: int = 3) -> "Seen":
        """In the order of the split."""
        documents = [d for d in corpus.documents(split) if "image" in d.fields]
        pixels = stored(corpus, side, channels)[split] if documents else np.zeros((0, channels, side, side), np.uint8)
        return cls(pixels, [d.id for d in documents], [d.fields.get("label", "") for d in documents],
                   [d.text for d in documents])

    def rows(self, which: Sequence[int] | np.ndarray) -> "Seen":
        """Some of them."""
        return Seen(self.pixels[np.asarray(which, dtype=np.int64)], *([some[i] for i in which] for some in
                                                                      (self.ids, self.labels, self.captions)))


class Pictured(OnCorpus):
    """Base class of tasks about the pictures of a corpus."""

    name = ""

    def fits(self, module: nn.Module) -> str:
        """A model with one vector a picture is needed."""
        return "" if isinstance(module, Embeds | Pools) else "this model gives no vector of a picture"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` labelled pictures of the test split: a prompt is a picture's name in the tar."""
        found = [d for d in corpus.documents("test") if "image" in d.fields and "label" in d.fields]
        return [Item(d.id, d.fields["image"], d.fields["label"]) for d in drawn(found, limit, seed, self.name)]

    def seen(self, items: Sequence[Item]) -> list[bool]:
        """Whether each item's pixels are those of a training picture."""
        known = {digest_bytes(x.tobytes()) for x in Seen.of(self.corpus, "train", RAW).pixels}
        return [digest_bytes(x.tobytes()) in known for x in self.asked(items, RAW, 3).pixels]

    def asked(self, items: Sequence[Item], side: int, channels: int) -> Seen:
        """The pictures of the items, in their order."""
        test = Seen.of(self.corpus, "test", side, channels)
        place = {name: row for row, name in enumerate(test.ids)}
        return test.rows([place[item.group] for item in items])

    def pool(self, side: int, channels: int, most: int = POOL) -> Seen:
        """The labelled training pictures, at most so many (a choice that depends on the corpus alone)."""
        train = Seen.of(self.corpus, "train", side, channels)
        rows = np.array([row for row, label in enumerate(train.labels) if label], dtype=np.int64)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(seed_of(self.corpus.hash, "pool")).permutation(rows)[:most])
        return train.rows(rows)


def shape(module: nn.Module) -> tuple[int, int]:
    """Side and channels of the pictures that a model sees; RequestError for one that sees none."""
    config: Mapping[str, Any] = vars(module.config)
    if "image" not in config:
        raise RequestError("this model sees no pictures")
    return config["image"], config["inputs"] if "inputs" in config else config["channels"]


@torch.no_grad()
def apply(module: nn.Module, call: Any, pixels: UInt8[np.ndarray, "N C H W"]) -> Float[Tensor, "N *E"]:
    """`call(images)`, images between -1 and 1, on all pictures, some at a time, in evaluation mode; fp32."""
    training = module.training
    module.eval()
    try:
        return torch.cat([call(between(torch.from_numpy(np.array(pixels[i:i + TOGETHER])))).float()
                          for i in range(0, len(pixels), TOGETHER)])
    finally:
        module.train(training)


def vectors(module: nn.Module, pixels: UInt8[np.ndarray, "N C H W"]) -> Float[Tensor, "N E"]:
    """One vector a picture: in the model's space of pictures where it has one, else its pooled features."""
    if isinstance(module, Embeds):
        return apply(module, module.embed_images, pixels)
    assert isinstance(module, Pools)
    return apply(module, lambda images: module.pool(module.features(images)), pixels)


def raw(pixels: UInt8[np.ndarray, "N C H W"]) -> Float[Tensor, "N E"]:
    """The numbers of the pictures themselves, from 0 to 1; of pictures without colour one channel."""
    grey = all((pixels[:, :1] == pixels[:, i:i + 1]).all() for i in range(1, pixels.shape[1]))
    return torch.from_numpy(np.array(pixels[:, :1] if grey else pixels)).flatten(1).float() / 255


def numbers(*columns: Sequence[str]) -> tuple[list[str], list[Tensor]]:
    """Labels as numbers: the names in order, and each column as int64."""
    names = sorted({label for column in columns for label in column})
    place = {name: number for number, name in enumerate(names)}
    return names, [torch.tensor([place[label] for label in column], dtype=torch.int64) for column in columns]
