"""The picture watermark of `generate.watermark`: how surely it is found, also after JPEG, in this corpus's pictures.

    meristem evaluate RUN --corpus CORPUS --tasks picture_watermark

Any model that sees pictures may be asked: the certificate is about the mark, at the side the model works at. For each
test picture: the detector's area under the ROC curve between marked and plain ones, and the same after JPEG of quality
75.
"""
import io
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.pictures import Pictured, shape
from meristem.evals.statistics import placements
from meristem.evals.subject import Subject
from meristem.generate.watermark import mark, trace

ON_REQUEST = RISK = True
WORD = "certificate"
QUALITY = 75
METRICS = (Metric("picture_watermark_auc", "marked pictures told from plain ones by the detector", "area", "ratio",
                  True),
           Metric("picture_watermark_jpeg", f"the same after JPEG of quality {QUALITY}", "area", "ratio", True))


class PictureWatermark(Pictured):
    """Items are test pictures."""

    name, version, count = "picture_watermark", 1, 200
    metrics = METRICS

    def fits(self, module: nn.Module) -> str:
        """Any model of pictures."""
        return ""

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Every picture plain and marked."""
        assert isinstance(subject, Subject)
        plain = self.asked(items, *shape(subject.module)).pixels
        both = [np.array(plain), mark(plain, WORD)]
        values = {}
        for metric, change in zip(METRICS, (None, compressed), strict=True):
            z = np.concatenate([trace(change(some) if change else some, WORD) for some in both])
            member = [False] * len(items) + [True] * len(items)
            values[metric.name] = np.array(placements(z.tolist(), member)).reshape(2, -1).mean(0).tolist()
        return Outcome(values, {name: [1.0] * len(items) for name in values}, [])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """None."""
        return {}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """A detector without the key."""
        return {metric.name: Reference(0.5, "without the key") for metric in METRICS}


def compressed(pixels: UInt8[np.ndarray, "N C H W"]) -> UInt8[np.ndarray, "N C H W"]:
    """Pictures after JPEG; of one channel as grey ones."""
    out = []
    for picture in pixels:
        grey = len(picture) == 1
        image = Image.fromarray(picture[0] if grey else np.ascontiguousarray(picture.transpose(1, 2, 0)))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        back = np.asarray(Image.open(file))
        out.append(back[None] if grey else back.transpose(2, 0, 1))
    return np.stack(out)


TASK = PictureWatermark()
