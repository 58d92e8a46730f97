"""unCLIP's decoder: a diffusion model that is told the vector that CLIP gives the picture.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.1: the vector is added to the time and attended to as a
condition; the paper makes four places of it and adds the caption's, of which it finds little use. A share `drop` of the
vectors is zero, for guidance. With `prior` a folder, captions are painted by way of it; without one, a caption's own
vector takes the place of the picture's, which section 5.1 compares. `generate.unclip` varies, mixes and edits pictures.

    meristem pretrain unclip data.corpus=PICTURES objective.clip=runs/clip objective.prior=runs/prior
"""
from typing import Any, Literal

import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate import unclip
from meristem.hub import hf
from meristem.nn.image import between
from meristem.nn.linear import Entrance, compute_in
from meristem.nn.noise import Target
from meristem.objectives.diffusion import Diffusion
from meristem.objectives.prior import reader_of


class Unclip(Diffusion):
    """Summed over pictures: the mean squared error a number."""

    def __init__(self, model: nn.Module, clip: str = "", prior: str = "", target: Target = "velocity",
                 schedule: str = "cosine", steps: int = 1000, drop: float = 0.1):
        width = vars(model.config).get("embedding", 0)
        if not width:
            raise RequestError("unCLIP's decoder is told a vector; set model.name=unet, and model.embedding and "
                               "model.cross to the width of CLIP's space")
        super().__init__(model, target, schedule, steps, drop=drop)
        first = next(m for m in model.modules() if isinstance(m, Entrance))
        loaded = hf.load(prior) if prior else None
        if loaded and loaded.family != "prior":
            raise RequestError(f"{prior} is no prior; train one with meristem pretrain prior")
        self.parts = (reader_of(clip, first.compute, None),    # a tuple: what is an attribute would be saved
                      compute_in(loaded.module.requires_grad_(False), first.compute) if loaded else None)
        if self.reader.clip.config.project != width:
            raise RequestError(f"{clip} has vectors of {self.reader.clip.config.project} numbers; set model.embedding "
                               "and model.cross to that")

    @property
    def reader(self) -> unclip.Reader:
        """CLIP and its codec."""
        return self.parts[0]

    def prepare(self, batch: Batch) -> Batch:
        """As any diffusion, with the vector of each picture; some are zero."""
        made = super().prepare(batch)
        vectors = self.reader.of_pictures(between(batch["images"]))
        dropped = torch.rand(len(vectors)) < self.drop
        return {**made, "embedding": vectors.masked_fill(dropped[:, None], 0.0)}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The noisy images, time, and the vector."""
        return {**super().inputs(batch), "embedding": batch["embedding"]}

    @property
    def reads(self) -> Literal["", "labels", "captions"]:
        """Captions, by way of the prior."""
        return "captions"

    def painter(self, codec: Codec | None = None) -> Any:
        """CLIP, prior and decoder as `generate.pictures` asks them."""
        return unclip.Unclip(super().painter(codec), self.reader, self.parts[1])
