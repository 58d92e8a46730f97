"""How good painted pictures are: digits read by a judge, edits, more pixels, and latents beside pixels.

    python -m benchmarks.painting digits RUN CORPUS            # of toy:digits: class asked = class read, edits, steps
    python -m benchmarks.painting enlarge RUN CORPUS           # PSNR and distance of features, beside bicubic
    python -m benchmarks.painting frechet RUN CORPUS           # with its interval, and by number of steps

The judge of digits is a support vector machine of scikit-learn fitted to the training pictures, which no painter saw
the answers of; its own share of right answers on the test split stands beside. Every number has its 95 % interval.
"""
import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meristem.corpus.store import Corpus
from meristem.evals.frechet import features, pseudo
from meristem.evals.pictures import Seen
from meristem.evals.statistics import bootstrap, wilson
from meristem.generate.pictures import Painter, Wish, paint, stretched
from meristem.nn.image import between
from meristem.train.painting import as_bytes, open_run

EACH = 40                               # pictures of every digit
COUNT = 200                             # held-out pictures that are enlarged, or painted for a distance
EDITED = 180
STEPS = (1, 2, 5, 10, 20, 50)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("digits", "enlarge", "frechet"))
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    words = parser.parse_args()
    objective, codec = open_run(words.run)
    call = {"digits": digits, "enlarge": enlarge, "frechet": frechet}[words.what]
    print(json.dumps(call(objective.painter(codec), Corpus.open(words.corpus), objective.reads)))


def share(right: Sequence[bool]) -> dict[str, Any]:
    """A share with its interval."""
    low = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right), "low": low.low, "high": low.high, "n": len(right)}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """A mean with its interval."""
    low = bootstrap(values, [1.0] * len(values), [str(i) for i in range(len(values))], 0)
    return {"mean": float(np.mean(values)), "low": low.low, "high": low.high, "n": len(values)}


def digits(painter: Painter, corpus: Corpus, reads: str) -> dict[str, Any]:
    """Class asked = class read, of new pictures and of edits in the middle; the Frechet distance by steps."""
    from sklearn.svm import SVC
    train, test = (Seen.of(corpus, split, painter.side, painter.channels) for split in ("train", "test"))
    judge = SVC(C=10.0).fit(flat(train.pixels), train.labels)

    def read(pictures: np.ndarray) -> list[str]:
        return list(judge.predict(flat(pictures)))

    asked = tuple(str(i % 10) for i in range(10 * EACH))
    made = as_bytes(paint(painter, Wish(asked, steps=20))).numpy()
    named = [a == b for a, b in zip(asked, read(made), strict=True)]
    mask = torch.zeros(painter.side, painter.side, dtype=torch.bool)
    mask[1:-1, 1:-1] = True
    new, noise = [], []
    for i in range(min(EDITED, len(test.pixels))):
        old = between(torch.from_numpy(test.pixels[i:i + 1].copy()))[0]
        want = str((int(test.labels[i]) + 1 + i % 9) % 10)     # never the one that it shows
        image = paint(painter, Wish((want,), steps=20, seed=i, how="edit", image=old, mask=mask))
        new.append(read(as_bytes(image).numpy())[0] == want)
        noise.append(float((image[0] - old)[:, ~mask].square().mean()))
    return {"judge": share([a == b for a, b in zip(test.labels, read(test.pixels), strict=True)]),
            "asked is read": share(named), "edited is read": share(new),
            "largest mean square of what the mask left": max(noise), **frechet(painter, corpus, reads)}


def enlarge(painter: Painter, corpus: Corpus, reads: str) -> dict[str, Any]:
    """PSNR in dB (0 to 255) and squared distance of features from the true picture, ours and bicubic."""
    test = Seen.of(corpus, "test", painter.side, painter.channels).pixels[:COUNT]
    low = vars(painter)["low"]
    true = between(torch.from_numpy(np.array(test)))
    ours = torch.cat([paint(painter, Wish(steps=20, seed=i, how="enlarge", image=one)) for i, one in enumerate(true)])
    plain = stretched(true, low, painter.side).clamp(-1, 1)
    gap = {name: psnr(images, true) for name, images in (("ours", ours), ("bicubic", plain))}
    far = {name: (features(as_bytes(images).numpy()) - features(np.array(test))).square().sum(1)
           for name, images in (("ours", ours), ("bicubic", plain))}
    return {**{f"psnr {name}": mean(values.tolist()) for name, values in gap.items()},
            "psnr ours - bicubic": mean((gap["ours"] - gap["bicubic"]).tolist()),
            **{f"features {name}": mean(values.tolist()) for name, values in far.items()}}


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal to noise in dB, a picture each, of pictures from -1 to 1."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1).clamp(min=1e-10))


def frechet(painter: Painter, corpus: Corpus, reads: str) -> dict[str, Any]:
    """The distance from held-out pictures by number of steps; training pictures and pure noise beside it."""
    test, train = (Seen.of(corpus, split, painter.side, painter.channels) for split in ("test", "train"))
    count = min(COUNT, len(test.pixels))
    test, seen = test.rows(range(count)), train.rows(range(count))
    told = {"": [""] * count, "labels": test.labels, "captions": test.captions}[reads]
    real = features(test.pixels)
    found = {}
    for steps in STEPS:
        made = as_bytes(paint(painter, Wish(tuple(told), steps=steps, sampler="ddim"))).numpy()
        found[f"frechet {steps} steps"] = mean(pseudo(real, features(made)).tolist())
    noise = np.random.default_rng(0).integers(0, 256, test.pixels.shape, dtype=np.uint8)
    return {**found, "frechet training pictures": mean(pseudo(real, features(seen.pixels)).tolist()),
            "frechet noise": mean(pseudo(real, features(noise)).tolist())}


def flat(pixels: np.ndarray) -> np.ndarray:
    """Pictures as rows of numbers from 0 to 1."""
    return np.asarray(pixels).reshape(len(pixels), -1) / 255


if __name__ == "__main__":
    main()
