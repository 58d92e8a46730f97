"""unCLIP: pictures by way of the vectors that CLIP gives them.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125: a prior draws a vector for a caption, twice, and keeps the one
nearer to the caption's (section 2.2); the decoder paints it. Variations paint the vector of a picture again
(section 3.1); `mixed` goes from one picture to another (3.2), `changed` moves a picture as a caption differs from
another (3.3), both on great circles of the space, from the noise that the decoder makes of the picture (`inverted`).

    painter = train.painting.open_painter(Path("runs/unclip"))
    paint(painter, Wish(("a red circle",) * 4))                # and how="vary", image=...
    paint(painter, Wish(("a blue circle",), how="edit", avoid="a red circle", image=picture, strength=0.5))
"""
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.random import seed_of
from meristem.data.pictures import captions
from meristem.generate.base import evaluating
from meristem.generate.denoise import Said, ddim, guided, leading
from meristem.generate.pictures import Diffuser, Wish, noise_of
from meristem.nn.noise import Schedule, split

DRAWS = 2                               # vectors that the prior draws for each picture
STEPS = 64                              # of the prior, as section 2.2's
TOWARDS = 2.0                           # guidance of the prior


@dataclass(frozen=True)
class Reader:
    """CLIP as a source of vectors of length 1."""

    clip: Any
    codec: Codec

    def of_pictures(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """The vectors of pictures of any side."""
        side = self.clip.config.image
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return self.clip.embed_images(images).float()

    def of_tokens(self, tokens: Int[Tensor, "B S"], padding: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """What a prior is told of captions: `caption` [B, E], `condition` [B, S, E] and which places are `seen`."""
        segments = padding.long()
        return {"caption": self.clip.embed_texts(tokens, segments).float(),
                "condition": self.clip.text.features(tokens, segments).float(), "seen": ~padding}

    def of_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The same of texts."""
        tokens, lengths = captions(self.codec, texts, self.clip.config.context)
        padding = torch.arange(tokens.shape[1] - 1) >= torch.from_numpy(lengths)[:, None]
        return self.of_tokens(torch.from_numpy(tokens[:, :-1]).long(), padding)


@dataclass(frozen=True)
class Unclip:
    """The painter: a decoder (`Diffuser` over the vectors), CLIP, and the prior, without which captions go directly."""

    decoder: Diffuser
    reader: Reader
    prior: Any = None
    hows: frozenset[str] = frozenset({"new", "vary", "edit"})

    @property
    def side(self) -> int:
        """Of a picture, in pixels."""
        return self.decoder.side

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.decoder.channels

    def paint(self, wish: Wish) -> Float[Tensor, "N C H W"]:
        """Captions by way of the prior; variations of the wish's picture; edits as `changed`, or within the mask."""
        if wish.how == "edit" and wish.mask is None:
            assert wish.image is not None
            return changed(self, wish)
        if wish.how == "vary":
            assert wish.image is not None
            vectors = self.reader.of_pictures(wish.image[None]).expand(len(wish.texts), -1)
            return self.of_vectors(vectors, replace(wish, how="new", image=None))
        return self.of_vectors(self.vectors(wish.texts, wish.seed), wish)

    def vectors(self, texts: Sequence[str], seed: int) -> Float[Tensor, "N E"]:
        """A picture's vector for each caption; zero for the empty one."""
        told = self.reader.of_texts(texts)
        if self.prior is None:
            found = told["caption"]
        else:
            draws = torch.stack([F.normalize(drawn(self.prior, told, self.reader.of_texts([""]),
                                                   seed_of(seed, "prior", n)), dim=-1) for n in range(DRAWS)])
            nearest = (draws * told["caption"]).sum(-1).argmax(0)
            found = draws[nearest, torch.arange(len(nearest))]
        return found * torch.tensor([float(bool(text)) for text in texts])[:, None]

    def of_vectors(self, vectors: Float[Tensor, "N E"], wish: Wish,
                   noise: Float[Tensor, "N C H W"] | None = None) -> Float[Tensor, "N C H W"]:
        """What the decoder makes of some vectors, from the wish's noise or a given one (then by DDIM)."""
        def told(rows: Sequence[str]) -> dict[str, Tensor]:
            return {"embedding": torch.stack([vectors[int(row)] if row else torch.zeros_like(vectors[0])
                                              for row in rows])}

        decoder = replace(self.decoder, told=told)
        rows = tuple(str(i) for i in range(len(vectors)))      # `told` knows a picture by its number
        wish = replace(wish, texts=rows, avoid="")
        if noise is None:
            return decoder.paint(wish)
        with evaluating(decoder.network):
            said = decoder.said(rows, wish, None)
            return ddim(said, noise, decoder.schedule, wish.steps, target=decoder.target)


def drawn(prior: nn.Module, told: dict[str, Tensor], blank: dict[str, Tensor], seed: int,
          steps: int = STEPS) -> Float[Tensor, "N E"]:
    """One vector a caption, by DDIM from noise, with guidance."""
    rows = len(told["caption"])
    none = {key: value.expand(rows, *value.shape[1:]) for key, value in blank.items()}

    def asked(given: dict[str, Tensor]) -> Said:
        return lambda x, t: prior(embedding=x.float(), time=t.float(), **given).float()

    with evaluating(prior):
        x = noise_of(seed, range(rows), told["caption"].shape[1:])
        clean = ddim(guided(asked(told), asked(none), TOWARDS), x, Schedule("cosine"), steps, target="start")
        return prior.restored(clean)                           # type: ignore[operator]


def inverted(painter: Unclip, images: Float[Tensor, "N C H W"], vectors: Float[Tensor, "N E"],
             steps: int) -> Float[Tensor, "N C H W"]:
    """The noise from which the decoder paints these pictures: DDIM run backwards (section 3), without guidance."""
    decoder, schedule = painter.decoder, painter.decoder.schedule
    x = images.float()
    times = [*reversed(leading(schedule, steps))]              # a clean picture counts as one at step 0, as in DDIM
    with evaluating(decoder.network):
        for now, after in itertools.pairwise(times):
            time = torch.full((len(x),), now)
            said = decoder.network(images=x, time=time.float(), embedding=vectors).float()
            x0, e = split(decoder.target, said, x, *schedule.scales(torch.tensor(now)))
            a, s = schedule.scales(torch.tensor(after))
            x = a.to(x) * x0 + s.to(x) * e
    return x


def turned(one: Float[Tensor, "*N"], other: Float[Tensor, "*N"], share: float) -> Float[Tensor, "*N"]:
    """A vector `share` of the way from one to another on the great circle through both (slerp), of their lengths."""
    a, b = one.flatten(), other.flatten()
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if float(angle) < 1e-4:
        return one.lerp(other, share)
    return (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / torch.sin(angle)


def mixed(painter: Unclip, one: Float[Tensor, "C H W"], other: Float[Tensor, "C H W"], shares: Sequence[float],
          steps: int = 50, guidance: float = 1.0) -> Float[Tensor, "N C H W"]:
    """Pictures on the way from one to another: both the vectors and the noises are turned."""
    images = torch.stack([one, other])
    with torch.no_grad():
        vectors = painter.reader.of_pictures(images)
        noises = inverted(painter, images, vectors, steps)
        between = torch.stack([turned(vectors[0], vectors[1], share) for share in shares])
        starts = torch.stack([turned(noises[0], noises[1], share) for share in shares])
        return painter.of_vectors(between, Wish(steps=steps, guidance=guidance), starts)


def changed(painter: Unclip, wish: Wish) -> Float[Tensor, "N C H W"]:
    """The wish's picture moved by `strength` of the way towards how each text differs from `avoid` (a text diff).

    From the noise that the decoder makes of the picture, so that what the diff says nothing of stays.
    """
    assert wish.image is not None
    vector = painter.reader.of_pictures(wish.image[None])
    wanted, given = (painter.reader.of_texts(texts)["caption"] for texts in (wish.texts, [wish.avoid]))
    towards = F.normalize(wanted - given, dim=-1)
    vectors = torch.stack([turned(vector[0], direction, wish.strength) for direction in towards])
    noise = inverted(painter, wish.image[None], vector, wish.steps).expand(len(vectors), -1, -1, -1)
    return painter.of_vectors(vectors, wish, noise)
