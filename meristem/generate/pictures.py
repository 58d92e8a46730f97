"""Pictures from any family: what is asked for (`Wish`), who paints it (`Painter`), and the painter of diffusion models.

    painter = train.painting.painter(Path("runs/diffusion"))
    images = paint(painter, Wish(texts=("a red circle",) * 16, steps=20, guidance=3.0, seed=0))    # [16, 3, H, W]

Row i is a function of the wish, its seed and i alone, so the first rows of a longer wish are the rows of a shorter one.
Editing keeps what the mask leaves (`denoise.agreeing`); without a mask, and for variations, a picture is noised for a
share `strength` of the steps and walked back (Meng et al. 2021, https://arxiv.org/abs/2108.01073).
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of
from meristem.data.pictures import captions
from meristem.generate.base import evaluating
from meristem.generate.denoise import SAMPLERS, Said, agreeing, begun, guided
from meristem.nn.conv import cast
from meristem.nn.noise import Schedule, Target

How = Literal["new", "edit", "vary", "enlarge", "begin"]
Told = Callable[[Sequence[str]], dict[str, Tensor]]
TOGETHER = 32                           # pictures painted at once


@dataclass(frozen=True)
class Wish:
    """What pictures are wanted. `image` lies between -1 and 1; where `mask` is true it is painted anew."""

    texts: tuple[str, ...] = ("",)      # one picture each: a caption, or the name of a class; "" = anything
    seed: int = 0
    steps: int = 20                     # of a diffusion model
    guidance: float = 3.0               # classifier-free; 1 = none
    sampler: str = ""                   # of generate.denoise.SAMPLERS; "" = the model's usual
    avoid: str = ""                     # a text to lead away from, in place of none
    how: How = "new"
    image: Float[Tensor, "C H W"] | None = None                # what is edited, varied or enlarged
    mask: Bool[Tensor, "h w"] | None = None
    strength: float = 0.6               # vary, and edit without a mask: the share of the steps that is walked back
    temperature: float = 1.0            # of painters that write tokens
    top_k: int = 0
    best_of: int = 1                    # of painters with a judge: pictures drawn for each one shown


@runtime_checkable
class Painter(Protocol):
    """What paints."""

    @property
    def side(self) -> int:
        """Of its pictures, in pixels."""
        ...

    @property
    def channels(self) -> int:
        """Of its pictures."""
        ...

    @property
    def hows(self) -> frozenset[str]:
        """What it can do."""
        ...

    def paint(self, wish: Wish) -> Float[Tensor, "N *F C H W"]:
        """One picture (or film of F frames) a text, fp32, between -1 and 1 or a little beyond."""
        ...


def paint(painter: Painter, wish: Wish) -> Float[Tensor, "N *F C H W"]:
    """The pictures or films of a wish, fp32 from -1 to 1; RequestError for what this painter cannot do."""
    if wish.how not in painter.hows:
        can = ", ".join(sorted(painter.hows))
        raise RequestError(f"this model cannot {wish.how} pictures; it can: {can}")
    if not wish.texts or wish.steps < 1 or not 0 < wish.strength <= 1 or wish.best_of < 1:
        raise RequestError("ask for at least one picture, one step, one draw and a strength above 0 and up to 1")
    if wish.how != "new":
        if wish.image is None:
            raise RequestError(f"to {wish.how} a picture, give one")
        if wish.mask is not None and wish.mask.shape != wish.image.shape[1:]:
            raise RequestError(f"the mask is {'x'.join(map(str, wish.mask.shape))}, the picture "
                               f"{'x'.join(map(str, wish.image.shape[1:]))}")
    with torch.no_grad():
        return painter.paint(wish).float().clamp(-1, 1)


def noise_of(seed: int, rows: range, shape: Sequence[int], place: str = "noise") -> Float[Tensor, "N *S"]:
    """Normal noise of some rows: a row's is a function of (seed, place, row) alone."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed_of(seed, place, row)))
                        for row in rows])


@dataclass(frozen=True)
class Diffuser:
    """A diffusion model as a painter, in pixels or in the latents of an autoencoder.

    `told(texts)` is what the network is given beside images and time; `shape` is [C, H, W] of what is denoised, whose
    numbers are kept within `limit` where that is not 0. A network that enlarges has `low`: the side of the small
    picture, which it is shown, stretched, as further channels; one that follows instructions (`edits`) is shown the
    picture to be edited there.
    """

    network: nn.Module
    told: Told
    schedule: Schedule
    target: Target
    shape: tuple[int, int, int]
    usual: str = "dpm_solver"           # sampler
    limit: float = 0.0
    autoencoder: Any = None
    low: int = 0
    edits: bool = False

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.autoencoder.config.inputs if self.autoencoder is not None else self.shape[0]

    @property
    def side(self) -> int:
        """Of a picture, in pixels."""
        return self.shape[1] * (self.autoencoder.config.shrink if self.autoencoder is not None else 1)

    @property
    def hows(self) -> frozenset[str]:
        """A network that enlarges is always shown a small picture, one that edits the picture."""
        return frozenset({"enlarge"} if self.low else {"edit"} if self.edits else {"new", "edit", "vary"})

    def paint(self, wish: Wish) -> Float[Tensor, "N C H W"]:
        """TOGETHER rows at a time."""
        if (sampler := wish.sampler or self.usual) not in SAMPLERS:
            raise RequestError(f"no sampler {sampler!r}; {nearest(sampler, SAMPLERS)}")
        wish = replace(wish, sampler=sampler)
        starts = range(0, len(wish.texts), TOGETHER)
        with evaluating(self.network), cast(self.network):
            return torch.cat([self.rows(wish, range(i, min(i + TOGETHER, len(wish.texts)))) for i in starts])

    def rows(self, wish: Wish, rows: range) -> Float[Tensor, "N C H W"]:
        """Those rows of a wish."""
        whole, texts = self.schedule, [wish.texts[i] for i in rows]
        x = noise_of(wish.seed, rows, self.shape)
        drawn = iter(range(1, wish.steps + 1))

        def noise(like: Tensor) -> Tensor:
            return noise_of(wish.seed, rows, self.shape, f"noise {next(drawn)}").to(like)

        given = None if wish.image is None else self.given(wish.image).expand(len(rows), -1, -1, -1)
        shown = self.low > 0 or self.edits
        said = self.said(texts, wish, given if shown else None)
        walked, steps = whole, min(wish.steps, whole.steps)
        if given is not None and not shown and wish.mask is None:
            walked = replace(whole, steps=max(2, round(wish.strength * whole.steps)), of=whole.whole)
            steps = max(1, min(round(wish.strength * wish.steps), walked.steps))
            x = begun(wish.sampler, given, x, walked, steps)
        known = None
        if wish.mask is not None and given is not None:
            known = self.known(wish.mask)
        if known is not None or self.limit:
            said = agreeing(said, walked, self.target, lambda x0: self.kept(x0, known, given))
        x = SAMPLERS[wish.sampler](said, x, walked, steps, target=self.target, noise=noise)
        images = x if self.autoencoder is None else self.autoencoder.decode(x).float()
        if wish.mask is not None and wish.image is not None:   # an autoencoder changes what it should not
            images = torch.where(wish.mask, images, wish.image)
        return images

    def said(self, texts: Sequence[str], wish: Wish, beside: Tensor | None) -> Said:
        """What the network says under guidance."""
        def asked(told: dict[str, Tensor]) -> Said:
            def one(x: Tensor, t: Tensor) -> Tensor:
                images = x.float() if beside is None else torch.cat([x.float(), beside], 1)
                return self.network(images=images, time=t.float(), **told).float()[:, :self.shape[0]]
            return one

        told = self.told(texts)
        if wish.guidance == 1.0 or not told:
            return asked(told)
        return guided(asked(told), asked(self.told([wish.avoid] * len(texts))), wish.guidance)

    def given(self, image: Tensor) -> Float[Tensor, "1 C H W"]:
        """A picture as the network sees it: a latent, or for one that enlarges the small picture, stretched."""
        if self.low:
            return stretched(image[None], self.low, self.side)
        return image[None] if self.autoencoder is None else self.autoencoder.encode(image[None]).float()

    def known(self, mask: Tensor) -> Bool[Tensor, "h w"]:
        """Where what is denoised is known: where no pixel of it is painted anew."""
        cell = mask.shape[0] // self.shape[1]
        return F.max_pool2d(mask[None].float(), cell)[0] == 0

    def kept(self, x0: Tensor, known: Tensor | None, given: Tensor | None) -> Tensor:
        """The clean image within its limits, and as it is given where it is known."""
        x0 = x0.clamp(-self.limit, self.limit) if self.limit else x0
        return x0 if known is None or given is None else torch.where(known, given, x0)


def by_class(names: Sequence[str], none: int) -> Told:
    """Class names (or numbers, where the model has no names) as labels; "" is the label `none`."""
    def told(texts: Sequence[str]) -> dict[str, Tensor]:
        known = {"": none, **(dict(zip(names, range(none), strict=False)) or {str(i): i for i in range(none)})}
        if unknown := [text for text in texts if text not in known]:
            raise RequestError(f"this model paints no {unknown[0]!r}; {nearest(unknown[0], list(known)[1:])}")
        return {"labels": torch.tensor([known[text] for text in texts])}
    return told


def by_caption(tower: Any, codec: Codec) -> Told:
    """Captions as the vectors that a text tower (`features`, `config.context`) makes of them."""
    def told(texts: Sequence[str]) -> dict[str, Tensor]:
        tokens, _ = captions(codec, texts, tower.config.context)
        return {"condition": tower.features(torch.from_numpy(tokens[:, :-1]).long()).float()}
    return told


def by_nothing(texts: Sequence[str]) -> dict[str, Tensor]:
    """A model without a condition takes no text."""
    if any(texts):
        raise RequestError("this model was told nothing of what its pictures show; give an empty text")
    return {}


def stretched(images: Float[Tensor, "B C H W"], low: int, side: int) -> Float[Tensor, "B C S S"]:
    """Pictures of `low` pixels a side (averaged to it where they are larger) at `side`, bicubic."""
    small = images if images.shape[-1] == low else F.interpolate(images, size=(low, low), mode="area")
    return F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)
