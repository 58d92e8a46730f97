"""One row of what a model is called with, on the meta device: so that FLOPs are counted where nothing is computed.

    flops_of(module, example(module, context=77))              # of a forward pass of any family, in milliseconds

Shapes follow from the config's fields, names are those of `forward`: pictures [1, C, side, side] or clips
[1, F, C, side, side], tokens [1, context], sound [1, mels, frames], a time, and what else a model must be told. Of
optional arguments those are given that its config asks for (a class, a text to attend to, an embedding).
"""
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HALVED = 2                              # frames of sound to a place: the second convolution of the encoder steps by two


def example(module: nn.Module, context: int) -> dict[str, Tensor]:
    """The inputs of one row for `module.forward`; empty where none of them is known."""
    config = vars(module.config)
    known = {name: make() for name, make in _makers(config, context).items()}
    asked = inspect.signature(module.forward).parameters
    return {name: known[name] for name in asked if name in known}


def _makers(c: dict[str, Any], context: int) -> dict[str, Callable[[], Tensor]]:
    """How each argument is made that the config asks for."""
    made: dict[str, Callable[[], Tensor]] = {"time": lambda: torch.zeros(1, device="meta")}
    part = c.get("part", "both")
    if c.get("image") and part != "text":
        colours = c["channels"] if isinstance(c.get("channels"), int) else c["inputs"]
        frames = (c["frames"],) if c.get("frames", 1) > 1 else ()
        made["images"] = lambda: torch.zeros(1, *frames, colours, c["image"], c["image"], device="meta")
    if "vocab" in c and part != "vision":
        made["tokens"] = lambda: _numbers(1, min(context, c.get("context") or context))
    if "mels" in c:
        made["source"] = lambda: torch.zeros(1, c["mels"], HALVED * c["places"], device="meta")
    elif "samples" in c or "horizon" in c:                     # samples of a sound, numbers of a series
        made["source"] = lambda: torch.zeros(1, c["samples"] if "samples" in c else c["context"], device="meta")
    elif "decoder_layers" in c:
        made["source"] = lambda: _numbers(1, context)
    if c.get("classes"):
        made["labels"] = lambda: _numbers(1)
    if c.get("cross"):
        made["condition"] = lambda: torch.zeros(1, context, c["cross"], device="meta")
    if isinstance(c.get("embedding"), int) and c["embedding"]:
        made["embedding"] = lambda: torch.zeros(1, c["embedding"], device="meta")
    if "text" in c and "width" in c and "layers" in c:         # a prior: from a caption's embedding to a picture's
        made |= {name: lambda: torch.zeros(1, c["width"], device="meta") for name in ("embedding", "caption")}
        made["condition"] = lambda: torch.zeros(1, c["text"], c["width"], device="meta")
    if "draft" in c:                                           # a segmenter: one point of one mask
        made["points"] = lambda: torch.zeros(1, 1, 1, 2, device="meta")
        made["signs"] = lambda: _numbers(1, 1, 1)
    return made


def _numbers(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long, device="meta")
