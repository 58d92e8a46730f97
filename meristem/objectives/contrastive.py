"""Contrastive learning: the image and the text of a row belong together, those of two rows do not.

Radford et al. 2021, https://arxiv.org/abs/2103.00020 (figure 3: a cross-entropy over the batch, both ways); Zhai et
al. 2023, https://arxiv.org/abs/2303.15343 (`loss` "sigmoid": every pair judged alone); Yang et al. 2022,
https://arxiv.org/abs/2204.03610 (equation 3; `together`: rows of equal texts belong to each other, for captions that
are names of classes). Rows of other processes are gathered, so negatives are the whole batch; with train.micro they
are those of one forward pass, so leave it at 0.

    meristem pretrain clip data.corpus=PICTURES

With a scale of 0 the softmax loss is exactly ln(batch); at CLIP's first scale, 1 / 0.07, it is not.
"""
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core import parallel
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.nn.image import between
from meristem.objectives.base import Objective

LARGEST = math.log(100.0)               # CLIP section 2.5: a larger scale makes training unstable


class Contrastive(Objective):
    """Summed over rows; fact: `accuracy`, how often a row's own text scores highest for its image."""

    family = "clip"
    kinds: Mapping[str, str] = {"clip": "softmax", "siglip": "sigmoid"}         # of models, and each one's own loss

    def __init__(self, model: nn.Module, loss: Literal["softmax", "sigmoid", ""] = "", together: bool = False):
        super().__init__(model)
        kind = str(vars(model.config).get("kind"))
        if kind not in self.kinds:
            raise RequestError(f"contrastive learning needs a model with two towers; set model.name={self.family}")
        self.loss, self.together = loss or self.kinds[kind], together

    def prepare(self, batch: Batch) -> Batch:
        """Images between -1 and 1; every row counts 1."""
        if "images" not in batch:
            raise RequestError("contrastive needs rows with an image; give a corpus of pictures")
        return {**batch, "images": between(batch["images"]), "weight": torch.ones(len(batch["images"]))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """images [B, C, H, W] and tokens [B, T].

        Padding is not hidden: CLIP's text vector stands before it, and SigLIP's is read at the last place, which is
        padding and must see the text (Zhai et al. 2023 pad to the full length).
        """
        return {"images": batch["images"], "tokens": batch["tokens"][:, :-1]}

    def score(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors of the images and texts here [b, E] -> (summed loss of these rows, sum of right choices)."""
        images, texts = output
        others = parallel.gather(images), parallel.gather(texts)
        mine = parallel.rank() + parallel.count() * torch.arange(len(images), device=images.device)
        by_image = self.model.logits(images, others[1]).float()             # type: ignore[operator]
        if self.together:
            by_text = self.model.logits(others[0], texts).float().T         # type: ignore[operator]
            return self._classes(by_image, by_text, batch)
        right = (by_image.argmax(1) == mine).float().sum()
        if self.loss == "sigmoid":
            sign = 2 * F.one_hot(mine, len(others[1])) - 1.0
            return -F.logsigmoid(sign * by_image).sum(), {"accuracy": right}
        by_text = self.model.logits(others[0], texts).float().T             # type: ignore[operator]
        both = F.cross_entropy(by_image, mine, reduction="sum") + F.cross_entropy(by_text, mine, reduction="sum")
        return both / 2, {"accuracy": right}

    def _classes(self, by_image: Tensor, by_text: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of the rows here [b, B] over all texts and over all images, where every row with its text is right."""
        ids = batch["tokens"][:, :-1].float()                               # exact: a vocabulary is far below 2^24
        same = (ids[:, None] == parallel.gather(ids)[None]).all(-1).float()
        right = same.gather(1, by_image.argmax(1, keepdim=True)).sum()
        if self.loss == "sigmoid":
            return -F.logsigmoid((2 * same - 1) * by_image).sum(), {"accuracy": right}
        share = same / same.sum(1, keepdim=True)
        both = F.cross_entropy(by_image, share, reduction="sum") + F.cross_entropy(by_text, share, reduction="sum")
        return both / 2, {"accuracy": right}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The scale stays below 100."""
        super().after_step(step)
        scale = self.model.scale
        if isinstance(scale, Tensor):
            scale.clamp_(max=LARGEST)
