"""Diffusion of films in the latents of a causal autoencoder, told a text, and for some rows the first frame.

Brooks et al. 2024, "Video generation models as world simulators" (Sora); Blattmann et al. 2023,
https://arxiv.org/abs/2311.15127 (section 4.2: image to video). Noise, target and text are those of `diffusion`. In a
share `first` of the rows the first frame of the latent is given clean: the network is told so, and it is not scored.

    meristem pretrain film data.corpus=FILMS objective.autoencoder=runs/film_autoencoder objective.text=runs/film_clip
"""
import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.films import Filmer
from meristem.generate.pictures import Told, by_caption, by_nothing
from meristem.nn.noise import Target, wanted
from meristem.objectives.diffusion import Diffusion


class FilmDiffusion(Diffusion):
    """Summed over films: the mean squared error a number of the frames that are not given."""

    def __init__(self, model: nn.Module, target: Target = "velocity", schedule: str = "cosine", steps: int = 1000,
                 drop: float = 0.1, autoencoder: str = "", text: str = "", first: float = 0.25,
                 codec: Codec | None = None):
        if "frames" not in vars(model.config):
            raise RequestError("films are painted by a model of frames; set model.name=video_dit")
        super().__init__(model, target, schedule, steps, drop=drop, autoencoder=autoencoder, text=text, codec=codec)
        if not 0 <= first < 1:
            raise RequestError(f"objective.first={first} must be at least 0 and below 1")
        self.first = first

    @property
    def frames(self) -> int:
        """Of a film, before the autoencoder."""
        made = super().frames
        return made if self.autoencoder is None else 1 + (made - 1) * self.autoencoder.config.shorter

    def prepare(self, batch: Batch) -> Batch:
        """Times and noise as for pictures, and in which rows the first frame is known [B, F]."""
        made = super().prepare(batch)
        rows, frames = made["images"].shape[:2]
        known = torch.zeros(rows, frames, dtype=torch.bool)
        known[:, 0] = torch.rand(rows) < self.first
        return {**made, "known": known}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The noisy films [B, F, C, H, W] with clean known frames, time [B], which are known, the text."""
        given = super().inputs(batch)
        clean = torch.where(batch["known"][..., None, None, None], batch["images"], given["images"])
        return {**given, "images": clean, "known": batch["known"]}

    def score(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the model said [B, F, C, H, W] -> (summed loss, {})."""
        a, s = self.schedule.scales(batch["time"].long())
        error = (output.float() - wanted(self.target, batch["images"], batch["noise"], a, s)).square()
        asked = (~batch["known"]).float()
        return ((error.flatten(2).mean(2) * asked).sum(1) / asked.sum(1)).sum(), {}

    def painter(self, codec: Codec | None = None) -> Filmer:                    # type: ignore[override]
        """The model as `generate.films` asks it."""
        c = vars(self.model.config)
        told: Told = by_nothing
        if self.text is not None:
            assert self.codec is not None, "captions need a codec"
            told = by_caption(self.text.text, self.codec)
        return Filmer(self.model, told, self.schedule, self.target, (c["frames"], c["inputs"], c["image"], c["image"]),
                      self.autoencoder)
