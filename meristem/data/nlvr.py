"""NLVR: what people wrote about three boxes of shapes, true or false of the picture (Suhr et al. 2017).

    meristem curate nlvr:nlvr-dev --out runs/nlvr              # dev.json.gz and images.tar.gz

https://aclanthology.org/P17-2034. A row has the picture, the sentence as its input and "true" or "false" as its target;
permutations of one picture, and all sentences of one, are in one split. A model sees the middle square of a picture,
which would cut the outer boxes off, so each stands on a square ground.
"""
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.store import Corpus

SENTENCES, PICTURES = "dev.json.gz", "images.tar.gz"
SIDE = 96
LARGEST = 4 << 20


def make(source: Path, out: Path, seed: int = 0) -> Corpus:
    """The corpus of a folder; RequestError when the two files are not there."""
    if not ((source / SENTENCES).is_file() and (source / PICTURES).is_file()):
        raise RequestError(f"{source} has no {SENTENCES} with {PICTURES}")
    with gzip.open(source / SENTENCES, "rt", encoding="utf-8") as lines:
        said = {row["identifier"]: row for row in map(json.loads, lines)}

    def rows(split: str, folder: Path) -> Iterator[Row]:
        from PIL import Image
        with tarfile.open(source / PICTURES, "r:gz") as tar:
            for member in tar:
                if not member.isreg() or member.size > LARGEST or not member.name.endswith(".png"):
                    continue
                key, _, which = Path(member.name).stem.removeprefix("dev-").rpartition("-")
                place = seed_of(seed, "nlvr", key.split("-")[0]) % 10
                if key not in said or split != ("test" if place == 0 else "validation" if place == 1 else "train"):
                    continue
                raw = tar.extractfile(member)
                assert raw is not None
                with Image.open(io.BytesIO(raw.read()), formats=("PNG",)) as opened:
                    picture = opened.convert("RGB")
                picture.thumbnail((SIDE, SIDE))
                ground = Image.new("RGB", (SIDE, SIDE), "white")
                ground.paste(picture, (0, (SIDE - picture.height) // 2))
                name = f"{split}-{key}-{which}.png"
                (folder / name).write_bytes(encode(np.asarray(ground).transpose(2, 0, 1)))
                yield {"image": name, "input": said[key]["sentence"].strip(), "target": said[key]["label"]}

    terms = source / "LICENSE"
    return made(out, "NLVR", terms.read_text(encoding="utf-8") if terms.is_file() else "CC BY 4.0\n", rows)
