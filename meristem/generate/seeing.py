"""Words after pictures: rows with pictures as prompts, and what the model is shown beside them.

    ask(module, reader, [{"input": "what colour is the circle?"}], [[pixels]])          # (prompts, Shown)
    made = generate(module, prompts, length=8, stop={codec.end}, source=shown)

Rows are those of `data.interleaved`: a question, worked examples, a conversation, an instruction to a robot.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from meristem.codecs.image import decode
from meristem.core.errors import RequestError
from meristem.data.conversations import Reader
from meristem.data.interleaved import Writer
from meristem.generate.autoregressive import generate
from meristem.generate.base import Shown
from meristem.generate.sampling import Sampling
from meristem.nn.image import between

TOGETHER = 64                           # rows answered at once
Pixels = np.ndarray                     # uint8 [C, H, W]


def sees(module: nn.Module) -> bool:
    """Whether a model reads pictures among words."""
    return "image_token" in vars(module.config)


def opened(module: nn.Module, raw: bytes, name: str = "the picture") -> Pixels:
    """A picture at the side that a model wants; RequestError for bytes that are none, or a model that sees none."""
    if not sees(module):
        raise RequestError("this model reads no pictures among words; one of recipe llava or flamingo does")
    config = vars(module.config)
    return decode(raw, config["image"], config["channels"], name)


def ask(module: nn.Module, reader: Reader, rows: Sequence[Mapping[str, Any]],
        pictures: Sequence[Sequence[Pixels]]) -> tuple[list[np.ndarray], Shown]:
    """The prompts of some rows and what is shown beside them; black stands where a row has fewer pictures."""
    config: Any = module.config
    writer = Writer(reader, config.image_token, config.image_tokens)
    prompts = [writer.prompt(row, len(some)) for row, some in zip(rows, pictures, strict=True)]
    most = max(1, *map(len, pictures)) if pictures else 1
    images = torch.full((len(rows), most, config.channels, config.image, config.image), -1.0)
    for row, some in enumerate(pictures):
        for place, pixels in enumerate(some):
            image = between(torch.from_numpy(np.array(pixels))[None])
            if image.shape[-1] != config.image:                # a simulator's frame has a side of its own
                image = F.interpolate(image, (config.image, config.image), mode="bicubic", antialias=True)
            images[row, place] = image[0].clamp(-1, 1)
    return prompts, Shown(module, images)


def answers(module: nn.Module, reader: Reader, rows: Sequence[Mapping[str, Any]],
            pictures: Sequence[Sequence[Pixels]], length: int) -> list[list[int]]:
    """The likeliest tokens after each row, at most `length`, without what ends them."""
    out: list[list[int]] = []
    for start in range(0, len(rows), TOGETHER):
        stop = start + TOGETHER
        prompts, shown = ask(module, reader, rows[start:stop], pictures[start:stop])
        made = generate(module, prompts, Sampling(length=length, temperature=0.0), stop=reader.ends,
                        source=shown if any(pictures[start:stop]) else None)
        out += [one.tokens for one in made]
    return out
