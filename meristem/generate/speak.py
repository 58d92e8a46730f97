"""Sounds token by token: a decoder over words and the codewords of a neural codec (AudioLM's shape).

Borsos et al. 2022, https://arxiv.org/abs/2209.03143, section 3 (coarse codewords before fine ones). A frame is its
codewords level by level; the tokens of a level are marks of the tokenizer, `<|sound_N|>`, N = level * codes + code.

    speaker = Speaker(module, codec, audio_codec)
    speaker.speak(["seven"] * 4, seed=0)                       # float32 [4, N], speaker.rate samples a second
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.codecs.base import Codec, Fast
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import BANNED, Sampling

MARK = "<|sound_{}|>"
LOUD = 0.1                              # deviation of what is written: codecs hear sounds of deviation 1


def marks(levels: int, codes: int) -> list[str]:
    """The tokens that codewords need, for data.codec.special."""
    return [MARK.format(n) for n in range(levels * codes)]


def ids_of(codec: Codec, levels: int, codes: int) -> Int[Tensor, "L C"]:
    """The token of every codeword; RequestError for a tokenizer without them."""
    special: dict[str, int] = codec.special if isinstance(codec, Fast) else {}
    missing = [mark for mark in marks(levels, codes) if mark not in special]
    if missing:
        raise RequestError(f"the tokenizer has no token {missing[0]} (of {levels} levels of {codes}); fit one with "
                           "data.codec.special = generate.speak.marks(levels, codes), as recipe speak does")
    return torch.tensor([special[mark] for mark in marks(levels, codes)]).view(levels, codes)


class Levels:
    """Steers one row (`generate.base.Control`): codewords only, of each level in turn."""

    def __init__(self, ids: Int[Tensor, "L C"]):
        self.ids, self.written = ids, 0

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits of the next token; -inf where it must not stand."""
        allowed = self.ids[self.written % len(self.ids)]
        out = torch.full_like(logits, BANNED)
        out[allowed] = logits[allowed]
        return out

    def push(self, token: int) -> None:
        """This token was written."""
        self.written += 1

    def copy(self) -> "Levels":
        """The same place, going its own way from here."""
        other = Levels(self.ids)
        other.written = self.written
        return other


@dataclass(frozen=True)
class Speaker:
    """The decoder, its tokenizer, and what makes sound of its tokens."""

    module: nn.Module
    codec: Codec
    ear: Any                            # an audio codec: config, tokens, sound

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.ear.config.rate

    def speak(self, texts: Sequence[str], seed: int = 0, temperature: float = 1.0,
              top_k: int = 0) -> Float[Tensor, "N samples"]:
        """A sound of the codec's length for each text."""
        c = self.ear.config
        ids = ids_of(self.codec, c.levels, c.codes)
        prompts = [np.append(self.codec.encode(text), self.codec.end) for text in texts]
        sampling = Sampling(length=c.frames * c.levels, temperature=temperature, top_k=top_k, seed=seed)
        made = generate(self.module, prompts, sampling, grammars=[Levels(ids) for _ in texts])
        back = torch.full((int(ids.max()) + 1,), 0)
        back[ids.flatten()] = torch.arange(c.codes).repeat(c.levels)
        tokens = back[torch.tensor([one.tokens for one in made])].unflatten(1, (c.frames, c.levels))
        with torch.no_grad():
            return LOUD * self.ear.sound(tokens).float()
