"""Autoencoders: give the picture back through a narrow latent.

Kingma & Welling 2013, https://arxiv.org/abs/1312.6114 (kl: reconstruction plus KL to Normal(0, 1)); van den Oord et al.
2017, https://arxiv.org/abs/1711.00937, equation 3 (vq: codebook and commitment); Ramesh et al. 2021,
https://arxiv.org/abs/2102.12092, section 2.1 (dvae: KL to the uniform distribution, and a draw whose temperature falls
from 1 to `coldest`). Reconstruction is the mean absolute difference a pixel (Rombach et al. 2021, appendix G, without
their perceptual and adversarial terms; DALL-E bounds the pixels with a logit-Laplace density instead).

    meristem pretrain autoencoder data.corpus=PICTURES
"""
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.nn.image import between
from meristem.objectives.base import Objective


class Reconstruct(Objective):
    """Summed over pictures: mean |difference| + `kl` KL a picture, or + codebook + `commit` commitment.

    Facts: `pixels` (mean absolute difference, of -1 .. 1) and `latent` (the KL in nats a picture, or the codebook's
    distance). dvae: the temperature is `coldest` after `cooling` updates; `codes`, how many codes the mean choice of
    the batch amounts to (the exponential of its entropy), shows a codebook that collapses.
    """

    def __init__(self, model: nn.Module, kl: float = 1e-6, commit: float = 0.25, coldest: float = 1 / 16,
                 cooling: int = 400):
        super().__init__(model)
        self.kind = vars(model.config).get("kind")
        if self.kind not in ("kl", "vq", "dvae"):
            raise RequestError("reconstruct needs an autoencoder; set model.name=autoencoder")
        if not 0 < coldest <= 1 or cooling < 1:
            raise RequestError(f"objective.coldest={coldest} must be in (0, 1] and cooling={cooling} at least 1")
        self.kl, self.commit, self.coldest, self.cooling = kl, commit, coldest, cooling
        if self.kind == "dvae":                                # how far the cooling is belongs to the checkpoint
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> float:
        """Of the dvae's draws: half a cosine from 1 to the coldest (DALL-E appendix A.2)."""
        done = min(1.0, int(self.get_buffer("updates")) / self.cooling)
        return self.coldest + (1 - self.coldest) * 0.5 * (1 + math.cos(math.pi * done))

    def prepare(self, batch: Batch) -> Batch:
        """Images between -1 and 1, and the noise that draws each latent (a dvae is judged by its likeliest codes)."""
        images = between(batch["images"])
        drawn: Batch = {}
        c: Any = self.model.config
        places = [side // c.shrink for side in images.shape[-2:]]
        if self.kind == "kl":
            shape = (c.latent, *places) if images.ndim == 4 else c.shape
            drawn = {"noise": torch.randn(len(images), *shape)}
        elif self.kind == "dvae" and self.training:
            gumbel = -torch.empty(len(images), c.codes, *places).exponential_().log()
            drawn = {"noise": gumbel, "temperature": torch.tensor(self.temperature)}
        return {**batch, **drawn, "images": images, "weight": torch.ones(len(images))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """images [B, C, H, W], the noise and its temperature."""
        return {"images": batch["images"], **{key: batch[key] for key in ("noise", "temperature") if key in batch}}

    def score(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(images again, a, b) of `models.autoencoder` -> (summed loss, facts)."""
        again, a, b = (x.float() for x in output)
        pixels = (again - batch["images"]).abs().mean(tuple(range(1, again.ndim))).sum()
        if self.kind == "kl":
            latent = 0.5 * (a.square() + b.exp() - 1 - b).sum()
            return pixels + self.kl * latent, {"pixels": pixels, "latent": latent}
        if self.kind == "dvae":
            latent = (a.exp() * (a + math.log(a.shape[1]))).sum()              # KL to the uniform distribution
            mean = a.exp().mean((0, 2, 3))
            codes = torch.exp(-(mean * mean.clamp(min=1e-12).log()).sum()) * len(a)
            return pixels + self.kl * latent, {"pixels": pixels, "latent": latent, "codes": codes}
        book = F.mse_loss(b, a.detach(), reduction="none").mean((1, 2, 3)).sum()
        held = F.mse_loss(a, b.detach(), reduction="none").mean((1, 2, 3)).sum()
        return pixels + book + self.commit * held, {"pixels": pixels, "latent": book}

    @torch.no_grad()
    def settled(self, config: Any, held_out: Sequence[Batch]) -> Any:
        """A kl autoencoder's scale, such that latents of held-out pictures have unit variance (Rombach, section G)."""
        if self.kind != "kl" or not held_out:
            return config
        device = next(self.model.parameters()).device
        latents = torch.cat([self.model.statistics(between(batch["images"]).to(device))[0].float()  # type: ignore[operator]
                             for batch in held_out[:8]])
        return dataclasses.replace(config, scale=1 / max(float(latents.std()), 1e-6), shift=float(latents.mean()))

    def after_step(self, step: int) -> None:
        """A dvae cools."""
        super().after_step(step)
        if self.kind == "dvae":
            self.get_buffer("updates").add_(1)
