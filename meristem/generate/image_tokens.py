"""Pictures token by token: the painter of DALL-E, a decoder over captions and image tokens.

Ramesh et al. 2021, https://arxiv.org/abs/2102.12092 (section 2: a caption, then a grid of codebook numbers; section
2.6: of several draws the one that a contrastive model finds nearest to the caption). Editing keeps the tokens of the
cells that the mask leaves alone, and writes the others in between; a token sees only those before it. Guidance is that
of Gafni et al. 2022, https://arxiv.org/abs/2203.13131, section 3.4: logits without a caption, moved away from.

    images = paint(Writer(module, codec, autoencoder), Wish(texts=("a red circle",) * 16, temperature=1.0))
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.data.pictures import captions
from meristem.generate.autoregressive import generate
from meristem.generate.pictures import Wish
from meristem.generate.sampling import BANNED, Sampling
from meristem.nn.attention import Cache

TOGETHER = 64                           # pictures written at once


class Cells:
    """Steers one row (`generate.base.Control`): image tokens only, and `fixed` ones where the number is not -1."""

    def __init__(self, first: int, codes: int, fixed: Sequence[int] = ()):
        self.first, self.codes, self.fixed, self.written = first, codes, fixed, 0

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits of the next token; -inf where it must not stand."""
        out = torch.full_like(logits, BANNED)
        known = self.fixed[self.written] if self.fixed else -1
        allowed = slice(self.first, self.first + self.codes) if known < 0 else self.first + known
        out[allowed] = logits[allowed]
        return out

    def push(self, token: int) -> None:
        """This token was written."""
        self.written += 1

    def copy(self) -> "Cells":
        """The same place, going its own way from here."""
        other = Cells(self.first, self.codes, self.fixed)
        other.written = self.written
        return other


class Twice:
    """One layer's caches of a row with its caption and without (see `generate.base`)."""

    def __init__(self, told: Cache, untold: Cache):
        self.told, self.untold = told, untold

    def keep(self, rows: Int[Tensor, "R"]) -> None:
        """Go on with only these rows."""
        self.told.keep(rows)
        self.untold.keep(rows)


class Guided(nn.Module):
    """The decoder as `generate` asks it, whose logits are those without a caption + scale (with - without)."""

    def __init__(self, inner: nn.Module, scale: float):
        super().__init__()
        self.inner, self.scale = inner, scale
        self.config: Any = inner.config

    def caches(self, batch: int, length: int) -> list[Twice]:
        """Room for both."""
        told, untold = (self.inner.caches(batch, length) for _ in range(2))    # type: ignore[operator]
        return [Twice(a, b) for a, b in zip(told, untold, strict=True)]

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"],
                 cache: list[Twice]) -> Float[Tensor, "B T E"]:
        """Both features side by side."""
        bare = torch.where(positions < self.config.text, self.config.end, tokens)
        told = self.inner.features(tokens, positions, [one.told for one in cache])             # type: ignore[operator]
        return torch.cat([told, self.inner.features(bare, positions, [one.untold for one in cache])], -1)  # type: ignore[operator]

    def head(self, features: Float[Tensor, "*B E"]) -> Float[Tensor, "*B V"]:
        """The guided logits."""
        told, untold = (self.inner.head(part).float() for part in features.chunk(2, -1))       # type: ignore[operator]
        return untold + self.scale * (told - untold)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"],
                cache: list[Twice]) -> Float[Tensor, "B T V"]:
        """[B, T] -> [B, T, vocab + codes]."""
        return self.head(self.features(tokens, positions, cache))


@dataclass(frozen=True)
class Writer:
    """The decoder, what reads its tokens, and where there is one the model that judges draws (CLIP)."""

    module: nn.Module
    codec: Codec
    autoencoder: Any
    judge: Any = None
    hows: frozenset[str] = frozenset({"new", "edit"})

    @property
    def side(self) -> int:
        """Of a picture, in pixels."""
        config: Any = self.module.config
        return config.grid * self.autoencoder.config.shrink

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.autoencoder.config.inputs

    def paint(self, wish: Wish) -> Float[Tensor, "N C H W"]:
        """TOGETHER rows at a time; RequestError for an edit without a mask, or a choice without a judge."""
        if wish.how == "edit" and wish.mask is None:
            raise RequestError("this model writes pictures token by token: to edit one, give a mask")
        if wish.best_of > 1 and self.judge is None:
            raise RequestError("nobody can say which draw is best; train with objective.clip=FOLDER, or leave out "
                               "best_of")
        starts = range(0, len(wish.texts), TOGETHER)
        return torch.cat([self.best(replace(wish, texts=wish.texts[i:i + TOGETHER],
                                            seed=seed_of(wish.seed, "pictures", i))) for i in starts])

    def best(self, wish: Wish) -> Float[Tensor, "N C H W"]:
        """One picture a text: of `best_of` draws the one whose vector is nearest to the caption's."""
        draws = [self.draw(replace(wish, seed=seed_of(wish.seed, "draw", n))) for n in range(wish.best_of)]
        if len(draws) == 1:
            return draws[0]
        c = self.judge.config
        tokens = torch.from_numpy(captions(self.codec, wish.texts, c.context)[0][:, :-1]).long()
        texts = self.judge.embed_texts(tokens)
        side = (c.image, c.image)
        near = [(self.judge.embed_images(F.interpolate(images, side, mode="bilinear", antialias=True)) * texts).sum(1)
                for images in draws]
        chosen = torch.stack(near).argmax(0)
        return torch.stack(draws)[chosen, torch.arange(len(chosen))]

    def draw(self, wish: Wish) -> Float[Tensor, "N C H W"]:
        """One draw of every picture."""
        c: Any = self.module.config
        tokens, lengths = captions(self.codec, wish.texts, c.text)
        unread = torch.arange(c.text) >= torch.from_numpy(lengths)[:, None]
        words = torch.where(unread, c.end, torch.from_numpy(tokens[:, :-1]).long())
        fixed: list[int] = []
        if wish.mask is not None and wish.image is not None:
            given = self.autoencoder.tokens(wish.image[None])[0]
            fixed = torch.where(self.known(wish.mask), given, -1).flatten().tolist()
        sampling = Sampling(length=c.grid**2, temperature=wish.temperature, top_k=wish.top_k, seed=wish.seed)
        module = self.module if wish.guidance == 1.0 else Guided(self.module, wish.guidance)
        made = generate(module, list(words.numpy()), sampling,
                        grammars=[Cells(c.vocab, c.codes, fixed) for _ in wish.texts])
        numbers = torch.tensor([one.tokens for one in made]) - c.vocab
        images = self.autoencoder.picture(numbers.unflatten(1, (c.grid, c.grid))).float()
        if wish.mask is not None and wish.image is not None:   # a codebook changes what it should not
            images = torch.where(wish.mask, images, wish.image)
        return images

    def known(self, mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "h w"]:
        """The cells of which no pixel is painted anew."""
        return F.max_pool2d(mask[None].float(), self.autoencoder.config.shrink)[0] == 0
