"""The levels that published weights want their pictures at: preprocessor_config.json <-> the layer where they enter.

Here a picture's numbers lie between -1 and 1, everywhere. DINOv2, Segment Anything, CLIP and ResNet were trained on
numbers from 0 to 1 less the mean of their pictures, over their deviation; transformers keeps both as image_mean and
image_std. Their first layer gets them when the folder is read, and computes the same from our numbers.

    read(folder, module); write(folder, module)
"""
from pathlib import Path
from typing import Any

from torch import nn

from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.nn.conv import Stem
from meristem.nn.linear import Entrance
from meristem.nn.patch import Patches

FILE = "preprocessor_config.json"
OURS = 0.5                              # mean and deviation of numbers from 0 to 1 that lie between -1 and 1 then


def read(folder: Path, module: nn.Module) -> None:
    """Set the levels of every layer of `module` that sees pictures; RequestError for a file that says nonsense."""
    if not (folder / FILE).is_file():
        return
    tree: Any = read_json(folder / FILE)
    if not isinstance(tree, dict) or not tree.get("do_normalize", True) or "image_mean" not in tree:
        return
    mean, std = (numbers(tree.get(key)) for key in ("image_mean", "image_std"))
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise RequestError(f"{folder / FILE}: image_mean and image_std are not a mean and a deviation above 0 of each "
                           "channel")
    for layer in entrances(module) if any(x != OURS for x in mean + std) else ():
        if channels(layer) == len(mean):
            layer.levels = mean, std


def write(folder: Path, module: nn.Module) -> None:
    """Keep the levels beside the weights, as transformers reads them."""
    found = next((layer.levels for layer in entrances(module) if layer.levels), None)
    if found:
        write_json(folder / FILE, {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255,
                                   "image_mean": list(found[0]), "image_std": list(found[1])})


def numbers(said: Any) -> tuple[float, ...]:
    """A list of numbers, or one for three channels; () for anything else."""
    row = [said] * 3 if isinstance(said, int | float) else said
    fine = isinstance(row, list) and all(isinstance(x, int | float) for x in row)
    return tuple(map(float, row)) if fine else ()


def entrances(module: nn.Module) -> list[Entrance]:
    """The layers that see pictures."""
    return [layer for layer in module.modules() if isinstance(layer, Patches | Stem)]


def channels(layer: Entrance) -> int:
    """Of the pictures that a layer sees."""
    assert isinstance(layer, Patches | Stem)
    return layer.weight.shape[1]
