"""Autoencoders: give the picture back through a narrow latent.

Kingma & Welling 2013, https://arxiv.org/abs/1312.6114 (kl: reconstruction plus KL to Normal(0, 1)); van den Oord et al.
2017, https://arxiv.org/abs/1711.00937, equation 3 (vq: codebook and commitment). Reconstruction is the mean absolute
difference a pixel (Rombach et al. 2021, appendix G, without their perceptual and adversarial terms).

    meristem pretrain autoencoder data.corpus=PICTURES
"""
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.nn.image import between
from meristem.objectives.base import Objective


class Reconstruct(Objective):
    """Summed over pictures: mean |difference| + `kl` KL a pixel, or + codebook + `commit` commitment.

    Facts: `pixels` (mean absolute difference, of -1 .. 1) and `latent` (the KL in nats a picture, or the codebook's
    distance).
    """

    def __init__(self, model: nn.Module, kl: float = 1e-6, commit: float = 0.25):
        super().__init__(model)
        self.kind = vars(model.config).get("kind")
        if self.kind not in ("kl", "vq"):
            raise RequestError("reconstruct needs an autoencoder; set model.name=autoencoder")
        self.kl, self.commit = kl, commit

    def prepare(self, batch: Batch) -> Batch:
        """Images between -1 and 1, and for a kl model the noise that draws each latent."""
        images = between(batch["images"])
        drawn: Batch = {}
        if self.kind == "kl":
            c: Any = self.model.config
            latent = (len(images), c.latent, *(side // c.shrink for side in images.shape[2:]))
            drawn = {"noise": torch.randn(latent)}
        return {**batch, **drawn, "images": images, "weight": torch.ones(len(images))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """images [B, C, H, W] and the noise."""
        return {"images": batch["images"], **({"noise": batch["noise"]} if self.kind == "kl" else {})}

    def score(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(images again, a, b) of `models.autoencoder` -> (summed loss, facts)."""
        again, a, b = (x.float() for x in output)
        pixels = (again - batch["images"]).abs().mean((1, 2, 3)).sum()
        if self.kind == "kl":
            latent = 0.5 * (a.square() + b.exp() - 1 - b).sum()
            return pixels + self.kl * latent, {"pixels": pixels, "latent": latent}
        book = F.mse_loss(b, a.detach(), reduction="none").mean((1, 2, 3)).sum()
        held = F.mse_loss(a, b.detach(), reduction="none").mean((1, 2, 3)).sum()
        return pixels + book + self.commit * held, {"pixels": pixels, "latent": book}
