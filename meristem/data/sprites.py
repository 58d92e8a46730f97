"""Films of the Liberated Pixel Cup's characters: layers of sprite sheets laid over each other, by action and facing.

    meristem curate sprites:sprites-video --out runs/sprites   # sheets.tar.gz of the Sprites repository

A sheet has 21 rows of frames of 64 x 64: spellcast, thrust, walk, slash and shoot, each in four directions, and hurt
(Li & Mandt 2018, https://arxiv.org/abs/1803.02991, made a data set of such films). A film is a character (a choice of
body, shoes, bottom, top, eyes and hair) with one row; caption and label are "a character walks left", so there are
twenty classes. Characters are split, so that a test film shows somebody whom training never saw.
"""
import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.store import Corpus

SHEETS = "sheets.tar.gz"
LAYERS = ("body", "shoes", "bottomwear", "topwear", "eyes", "hair")            # from back to front
ACTIONS = {"spellcast": (0, 7, "casts a spell"), "thrust": (4, 8, "thrusts"), "walk": (8, 9, "walks"),
           "slash": (12, 6, "slashes"), "shoot": (16, 13, "shoots")}            # first row, frames, verb
FACING = ("back", "left", "front", "right")
SIDE = 64
LARGEST = 4 << 20                       # bytes of a sheet


def make(source: Path, out: Path, seed: int = 0, films: int = 1500) -> Corpus:
    """The corpus of a folder with the sheets: `films` to train on, a tenth of it for each of the other splits."""
    from PIL import Image
    layers = _sheets(source / SHEETS)
    every = list(itertools.product(*(range(len(layers[layer])) for layer in LAYERS)))
    people = [every[i] for i in np.random.default_rng(seed_of(seed, "sprites")).permutation(len(every))]
    share = max(1, len(people) // 10)
    who = {"test": people[:share], "validation": people[share:2 * share], "train": people[2 * share:]}

    def rows(split: str, folder: Path) -> Iterator[Row]:
        rng = np.random.default_rng(seed_of(seed, "sprites", split))
        drawn: set[tuple[int, ...]] = set()
        for number in range(films if split == "train" else max(1, films // 10)):
            person, action = int(rng.integers(len(who[split]))), list(ACTIONS)[rng.integers(len(ACTIONS))]
            facing = int(rng.integers(4))
            if (key := (person, list(ACTIONS).index(action), facing)) in drawn:
                continue
            drawn.add(key)
            first, count, verb = ACTIONS[action]
            names = [f"{split}-{number:05}-{i:02}.png" for i in range(count)]
            sheet = None
            for layer, which in zip(LAYERS, who[split][person], strict=True):
                own = layers[layer][which]
                sheet = own.copy() if sheet is None else Image.alpha_composite(sheet, own)
            assert sheet is not None
            for i, name in enumerate(names):
                box = (i * SIDE, (first + facing) * SIDE, (i + 1) * SIDE, (first + facing + 1) * SIDE)
                frame = Image.new("RGBA", (SIDE, SIDE), "white")
                frame.alpha_composite(sheet.crop(box))
                frame.convert("RGB").save(folder / name)
            said = f"a character {verb} {'to the ' * (facing in (0, 2))}{FACING[facing]}"
            yield {"images": names, "text": said, "label": said}

    return made(out, "films", "CC BY-SA 3.0 or GPL-3.0: Liberated Pixel Cup.\n", rows)


def _sheets(path: Path) -> dict[str, list]:                     # of Pillow images, which is lazy
    """The sheets of each layer, sorted by name; RequestError when a layer is missing."""
    from PIL import Image
    found: dict[str, list] = {layer: [] for layer in LAYERS}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in sorted((m for m in tar if m.isreg() and m.size <= LARGEST), key=lambda m: m.name):
                layer = next((part for part in Path(member.name).parts if part in LAYERS), "")
                raw = tar.extractfile(member)
                if layer and raw is not None and member.name.endswith(".png"):
                    with Image.open(io.BytesIO(raw.read()), formats=("PNG",)) as sheet:
                        found[layer].append(sheet.convert("RGBA"))
    except (OSError, tarfile.TarError) as error:
        raise RequestError(f"{path} is no archive of sprite sheets: {error}") from None
    if missing := [layer for layer, sheets in found.items() if not sheets]:
        raise RequestError(f"{path} has no sheets of {', '.join(missing)}")
    return found
