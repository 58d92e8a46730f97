"""DALL-E: predict a caption and then its picture, token by token, with one decoder.

Ramesh et al. 2021, https://arxiv.org/abs/2102.12092, section 2.2 (the second stage). Pictures become the numbers of a
frozen autoencoder's codebook. A row counts 1: `share` of it for its caption (1/8), the rest for its picture, each the
mean over its tokens. A share `drop` of the captions is left out, for guidance. With `clip` a folder, pictures that are
asked for with best_of are drawn so often, and the one nearest to its caption is shown (section 2.6).

    meristem pretrain dalle data.corpus=PICTURES objective.autoencoder=runs/dvae
"""
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.image_tokens import Writer
from meristem.hub import hf
from meristem.nn.image import between
from meristem.nn.linear import Embedding, compute_in
from meristem.objectives.next_token import NextToken, log_probs


class ImageTokens(NextToken):
    """Summed over rows; facts: `words` and `cells`, the nats a caption token and an image token (sums over rows)."""

    anywhere = False

    def __init__(self, model: nn.Module, autoencoder: str = "", share: float = 1 / 8, drop: float = 0.1,
                 clip: str = ""):
        super().__init__(model)
        c: Any = model.config
        if "grid" not in vars(c):
            raise RequestError("image tokens follow a caption in a model of both; set model.name=dalle")
        if not autoencoder:
            raise RequestError("which image tokens? add objective.autoencoder=FOLDER of an autoencoder with a codebook "
                               "(model.kind=dvae or vq)")
        if not 0 <= share < 1 or not 0 <= drop < 1:
            raise RequestError(f"objective.share={share} and drop={drop} must be at least 0 and below 1")
        self.share, self.drop = share, drop
        first = next(m for m in model.modules() if isinstance(m, Embedding))
        # A tuple, because a module that is an attribute would be saved with the model.
        self.frozen = tuple(compute_in(hf.load(folder).module.requires_grad_(False), first.compute) if folder else None
                            for folder in (autoencoder, clip))
        told: Any = self.autoencoder.config
        if vars(told).get("kind") not in ("vq", "dvae") or told.codes != c.codes:
            raise RequestError(f"{autoencoder} is no autoencoder with a codebook of {c.codes}; train one with "
                               "model.kind=dvae, and set model.codes to its codes")

    @property
    def autoencoder(self) -> Any:
        """What turns pictures into tokens and back."""
        return self.frozen[0]

    @property
    def picture(self) -> tuple[int, int]:
        """Side and channels: as many pixels as the grid of tokens stands for."""
        c: Any = self.model.config
        told = self.autoencoder.config
        return c.grid * told.shrink, told.inputs

    def prepare(self, batch: Batch) -> Batch:
        """tokens [B, text + grid^2] of captions and pictures, weight [B, text + grid^2 - 1]."""
        c: Any = self.model.config
        words = batch["tokens"][:, :-1]
        if words.shape[1] != c.text:
            raise RequestError(f"captions of {words.shape[1]} tokens are no input of this model; set "
                               f"train.context={c.text}")
        rows = len(words)
        unread = batch["segments"] > 0
        unread[torch.rand(rows) < (self.drop if self.training else 0.0)] = True
        unread |= unread[:, 1:].all(1, keepdim=True)           # an empty caption is none
        words = torch.where(unread, c.end, words)
        cells = self.autoencoder.tokens(between(batch["images"])).flatten(1) + c.vocab
        read = (~unread[:, 1:]).float()                        # the first token follows nothing
        spoken = self.share * read / read.sum(1, keepdim=True).clamp(min=1)
        seen = (1 - spoken.sum(1, keepdim=True)).expand(-1, c.grid**2) / c.grid**2
        return {"tokens": torch.cat([words, cells], 1), "weight": torch.cat([spoken, seen], 1)}

    def score(self, output: Float[Tensor, "B T V"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and batch -> (summed loss, facts)."""
        c: Any = self.model.config
        count, weight = c.grid**2, batch["weight"]
        nll = -log_probs(output, batch["tokens"][:, 1:])
        words, cells = nll.split([nll.shape[1] - count, count], 1)
        read = weight[:, :-count] > 0
        said = (words * read).sum(1) / read.sum(1).clamp(min=1)
        return (nll * weight).sum(), {"words": said.sum(), "cells": cells.mean(1).sum()}

    def painter(self, codec: Codec | None = None) -> Writer:
        """The decoder and the autoencoder as `generate.pictures` asks them."""
        assert codec is not None, "captions need a codec"
        return Writer(self.model, codec, self.autoencoder, self.frozen[1])
