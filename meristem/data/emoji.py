"""Questions about Noto's emoji: what kind of thing one shows, and whether a keyword of it, or another's, fits.

    meristem curate emoji:emoji-noto --out runs/emoji          # captions.jsonl and noto72.tar.gz

A row has the picture, a question ("what kind of thing?", "does ship fit?") and its answer ("travel", "yes"); the label
is the type of question. As many keywords fit as do not, and those that do not are drawn from the same list, so neither
the question nor the word gives the answer away on the whole. All questions about a picture are in one split, so that a
test asks about pictures that training never saw. Keywords are those of Unicode's CLDR.
"""
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meristem.codecs.image import encode
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.corpus.made import Row, made
from meristem.corpus.store import Corpus

CAPTIONS, PICTURES = "captions.jsonl", "noto72.tar.gz"
KIND, FITS = "kind", "fits"             # types of questions
FEWEST = 4                              # pictures that a keyword must fit
RARE = 20                               # a group of fewer pictures is not asked about
LARGEST = 4 << 20


def make(source: Path, out: Path, seed: int = 0, each: int = 4) -> Corpus:
    """The corpus of a folder, with `each` keywords that fit asked of a picture and as many that do not.

    RequestError when the two files are not there.
    """
    if not ((source / CAPTIONS).is_file() and (source / PICTURES).is_file()):
        raise RequestError(f"{source} has no {CAPTIONS} with {PICTURES}")
    told = {row["file"]: row for row in map(json.loads, (source / CAPTIONS).read_text(encoding="utf-8").splitlines())}
    groups = Counter(row["group"] for row in told.values())
    fitting = Counter(word for row in told.values() for word in _words(row))
    words = sorted(word for word, count in fitting.items() if count >= FEWEST)

    def rows(split: str, folder: Path) -> Iterator[Row]:
        from PIL import Image
        with tarfile.open(source / PICTURES, "r:gz") as tar:
            for member in sorted((m for m in tar if m.isreg() and m.size <= LARGEST), key=lambda m: m.name):
                name = Path(member.name).name
                place = seed_of(seed, "emoji", name) % 10
                if name not in told or split != ("test" if place == 0 else "validation" if place == 1 else "train"):
                    continue
                raw = tar.extractfile(member)
                assert raw is not None
                with Image.open(io.BytesIO(raw.read()), formats=("PNG",)) as opened:
                    picture = opened.convert("RGBA")
                ground = Image.new("RGBA", picture.size, "white")
                ground.alpha_composite(picture)
                (folder / f"{split}-{name}").write_bytes(encode(np.asarray(ground.convert("RGB")).transpose(2, 0, 1)))
                for row in _questions(told[name], groups, words, np.random.default_rng(seed_of(seed, "asked", name)),
                                      each):
                    yield {"image": f"{split}-{name}", **row}

    terms = source / "LICENSE"
    return made(out, "emoji", terms.read_text(encoding="utf-8") if terms.is_file() else "Apache-2.0\n", rows)


def _words(row: Row) -> set[str]:
    """The keywords of one word."""
    return {word.lower() for word in row["keywords"] if word.isalpha() and word.isascii()}


def _questions(row: Row, groups: Counter[str], words: list[str], rng: np.random.Generator, each: int) -> Iterator[Row]:
    """What is asked of one picture."""
    if groups[row["group"]] >= RARE:
        yield {"input": "what kind of thing?", "target": row["group"].split(" ")[0].lower(), "label": KIND}
    own = [word for word in words if word in _words(row)]
    others = [word for word in words if word not in _words(row)]
    count = min(each, len(own), len(others))
    for some, answer in ((own, "yes"), (others, "no")):
        for i in rng.permutation(len(some))[:count]:
            yield {"input": f"does {some[i]} fit?", "target": answer, "label": FITS}
