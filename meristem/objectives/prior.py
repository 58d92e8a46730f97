"""unCLIP's prior: diffusion over the vector that CLIP gives a picture, told its caption.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2 and equation 2: the network predicts the clean vector.
CLIP is frozen; a share `drop` of the captions is left out, for guidance. Fact: `cosine` of what is said and what is
true, at random times.

    meristem pretrain prior data.corpus=PICTURES objective.clip=runs/clip       # captions in that CLIP's own tokens
"""
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.unclip import Reader
from meristem.hub import hf
from meristem.nn.image import between
from meristem.nn.linear import Entrance, compute_in
from meristem.nn.noise import Schedule, add
from meristem.objectives.base import Objective


class Prior(Objective):
    """Summed over pictures: the mean squared error a number of the normalised vector."""

    anywhere = False

    def __init__(self, model: nn.Module, clip: str = "", schedule: str = "cosine", steps: int = 1000, drop: float = 0.1,
                 codec: Codec | None = None):
        super().__init__(model)
        c: Any = model.config
        if "width" not in vars(c):
            raise RequestError("a prior makes vectors of pictures from captions; set model.name=prior")
        self.schedule = Schedule(cast(Any, schedule), steps)
        self.drop = drop
        first = next(m for m in model.modules() if isinstance(m, Entrance))
        self.frozen = (reader_of(clip, first.compute, codec),)         # a tuple: what is an attribute would be saved
        told = self.reader.clip.config
        if not told.project == told.text.dim == c.width or told.context != c.text:
            raise RequestError(f"{clip} has vectors of {told.project} numbers, {told.text.dim} in its text tower, and "
                               f"captions of {told.context} tokens: all three must fit model.width={c.width} and "
                               f"model.text={c.text} (train it with model.project equal to the tower's width)")

    @property
    def reader(self) -> Reader:
        """CLIP and its codec."""
        return self.frozen[0]

    @property
    def picture(self) -> tuple[int, int]:
        """Side and channels that CLIP sees."""
        c = self.reader.clip.config
        return c.image, c.channels

    def prepare(self, batch: Batch) -> Batch:
        """Vectors of pictures and captions, noise and times; some captions are dropped."""
        told: Any = self.model
        vectors = told.normalised(self.reader.clip.embed_images(between(batch["images"])).float())
        rows = len(vectors)
        caption = self.reader.of_tokens(batch["tokens"][:, :-1], batch["segments"] > 0)
        blank = self.reader.of_texts([""])
        dropped = torch.rand(rows) < (self.drop if self.training else 0.0)
        for key, value in caption.items():
            caption[key] = torch.where(dropped.reshape(-1, *[1] * (value.ndim - 1)), blank[key], value)
        steps = torch.randint(0, self.schedule.steps, (rows,))
        return {"embedding": vectors, "noise": torch.randn_like(vectors), "time": steps.float(), **caption,
                "weight": torch.ones(rows)}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Noisy vectors, times and the caption."""
        noisy = add(batch["embedding"], batch["noise"], *self.schedule.scales(batch["time"].long()))
        return {"embedding": noisy, **{key: batch[key] for key in ("time", "caption", "condition", "seen")}}

    def score(self, output: Float[Tensor, "B E"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the network said -> (summed loss, facts)."""
        said, true = output.float(), batch["embedding"]
        told: Any = self.model
        near = F.cosine_similarity(told.restored(said), told.restored(true))
        return (said - true).square().mean(1).sum(), {"cosine": near.sum()}


def reader_of(folder: str, compute: torch.dtype | None, codec: Codec | None) -> Reader:
    """The CLIP of a folder, frozen; RequestError where there is none, or where captions are read otherwise here."""
    loaded = hf.load(folder) if folder else None
    if loaded is None or loaded.family != "clip" or loaded.config.part != "both" or loaded.codec is None:
        raise RequestError("vectors of what? add objective.clip=FOLDER of a trained clip, both towers with a tokenizer")
    if codec and codec.hash != loaded.codec.hash:
        raise RequestError(f"the captions are read by another tokenizer than {folder}'s; add data.codec.name=saved "
                           f"data.codec.folder={folder}")
    return Reader(compute_in(loaded.module.requires_grad_(False), compute), loaded.codec)
