"""Films from a diffusion model: from noise and a text, or going on from a first frame.

    films = paint(painter, Wish(texts=("a red circle moving right",) * 4))               # [4, F, C, H, W]
    films = paint(painter, Wish(texts=("...",), how="begin", image=frame))               # the first frame is this one

Row i is a function of the wish, its seed and i alone, as for pictures.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.errors import RequestError, nearest
from meristem.generate.base import evaluating
from meristem.generate.denoise import SAMPLERS, Said, agreeing, guided
from meristem.generate.pictures import Told, Wish, noise_of
from meristem.nn.noise import Schedule, Target

TOGETHER = 16                           # films painted at once


@dataclass(frozen=True)
class Filmer:
    """A diffusion model of films as a painter; `shape` is [F, C, H, W] of what is denoised."""

    network: nn.Module
    told: Told
    schedule: Schedule
    target: Target
    shape: tuple[int, int, int, int]
    autoencoder: Any = None
    hows: frozenset[str] = frozenset({"new", "begin"})

    @property
    def channels(self) -> int:
        """Of a frame."""
        return self.shape[1] if self.autoencoder is None else self.autoencoder.config.inputs

    @property
    def side(self) -> int:
        """Of a frame, in pixels."""
        return self.shape[2] * (1 if self.autoencoder is None else self.autoencoder.config.shrink)

    def paint(self, wish: Wish) -> Float[Tensor, "N F C H W"]:
        """TOGETHER rows at a time."""
        usual = "euler" if self.schedule.kind == "flow" else "dpm_solver"
        if (sampler := wish.sampler or usual) not in SAMPLERS:
            raise RequestError(f"no sampler {sampler!r}; {nearest(sampler, SAMPLERS)}")
        wish = replace(wish, sampler=sampler)
        starts = range(0, len(wish.texts), TOGETHER)
        with evaluating(self.network):
            return torch.cat([self.rows(wish, range(i, min(i + TOGETHER, len(wish.texts)))) for i in starts])

    def rows(self, wish: Wish, rows: range) -> Float[Tensor, "N F C H W"]:
        """Those rows of a wish."""
        texts = [wish.texts[i] for i in rows]
        x = noise_of(wish.seed, rows, self.shape)
        drawn = iter(range(1, wish.steps + 1))

        def noise(like: Tensor) -> Tensor:
            return noise_of(wish.seed, rows, self.shape, f"noise {next(drawn)}").to(like)

        first = None
        if wish.image is not None:
            film = wish.image[None, None]
            first = (film if self.autoencoder is None else self.autoencoder.encode(film).float()).expand(
                len(rows), -1, -1, -1, -1)
        said, given = self.said(texts, wish, first), first
        if given is not None:
            said = agreeing(said, self.schedule, self.target, lambda x0: torch.cat([given, x0[:, 1:]], 1))
        x = SAMPLERS[wish.sampler](said, x, self.schedule, min(wish.steps, self.schedule.steps), target=self.target,
                                   noise=noise)
        return x if self.autoencoder is None else self.autoencoder.decode(x).float()

    def said(self, texts: Sequence[str], wish: Wish, first: Tensor | None) -> Said:
        """What the network says under guidance; a first frame comes clean and is known."""
        known = torch.zeros(len(texts), self.shape[0], dtype=torch.bool)
        known[:, 0] = first is not None

        def asked(told: dict[str, Tensor]) -> Said:
            def one(x: Tensor, t: Tensor) -> Tensor:
                images = x.float() if first is None else torch.cat([first, x[:, 1:].float()], 1)
                return self.network(images=images, time=t.float(), known=known, **told).float()
            return one

        told = self.told(texts)
        if wish.guidance == 1.0 or not told:
            return asked(told)
        return guided(asked(told), asked(self.told([wish.avoid] * len(texts))), wish.guidance)
