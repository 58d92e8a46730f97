"""Detection: every object of a picture found by itself, judged by average precision of boxes and of masks.

Everything that a promptable model finds by a grid of clicks (`generate.segment.everything`), shadows too, best first.
Average precision is the area under precision against recall over all pictures, precision being the best at that
recall or more, and its mean over overlaps from 0.5 to 0.95 in steps of 0.05 (Lin et al. 2014,
https://arxiv.org/abs/1405.0312, the COCO metric; at most 100 detections a picture). Kinds are not told apart: what is
found is an object. Baseline: connected parts whose colour is not the ground's, the largest first.

    meristem evaluate runs/sam --corpus runs/objects --tasks detection

An object counts with the precision at which it is found, 0 if it is not: the mean of these is the average precision,
and its interval resamples pictures with the precisions held fixed.
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.pictures import shape
from meristem.evals.segments import SIDE, Masked, by_picture, pieces
from meristem.evals.subject import Subject
from meristem.generate.segment import everything
from meristem.nn.segment import box_overlap, boxes_of

LEVELS = torch.arange(0.5, 0.96, 0.05)
MOST = 100                              # detections of a picture that count
METRICS = tuple(Metric(f"detection_{what}_{name}", f"average precision of {what} at an overlap of {level}", "precision",
                       "ratio", True)
                for what in ("boxes", "masks") for name, level in (("map", "0.5 to 0.95"), ("ap50", "0.5")))
Picture = tuple[Bool[Tensor, "N H W"], Float[Tensor, "N"], Bool[Tensor, "P H W"], list[int]]


class Detection(Masked):
    """Items are the objects of test pictures: all of a picture or none."""

    name, version, count = "detection", 1, 400
    metrics = METRICS
    shadows = None

    def items(self, corpus: Corpus, codec, limit: int, seed: int) -> list[Item]:   # noqa: ANN001 - as in the base
        """Whole pictures: what else is found in one is wrong only if all its objects are known."""
        found = super().items(corpus, codec, 1 << 62, seed)
        last = found[limit:limit + 1]
        return found[:limit] if not last else [item for item in found[:limit] if item.group != last[0].group]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Everything in each picture, then precision over all of them."""
        assert isinstance(subject, Subject)
        pictures: list[Picture] = []
        for pixels, truth, places in by_picture(self.corpus, items, *shape(subject.module)):
            masks, quality = everything(subject.module, pixels)
            pictures.append((masks[:MOST], quality[:MOST], truth, places))
            progress.update(sum(len(p[3]) for p in pictures))
        return outcome(pictures, len(items))

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Connected parts of another colour than the ground's."""
        pictures: list[Picture] = []
        for pixels, truth, places in by_picture(corpus, items, SIDE, 3):
            masks = torch.from_numpy(pieces(np.asarray(pixels)))[:MOST]
            pictures.append((masks, masks.flatten(1).float().mean(1), truth, places))
        made = outcome(pictures, len(items))
        return {m.name: Baseline("connected parts unlike the ground", made) for m in METRICS}


def outcome(pictures: Sequence[Picture], count: int) -> Outcome:
    """Every object's precision by boxes and by masks, over the overlaps and at 0.5; `count` items in all."""
    values: dict[str, list[float]] = {}
    for what in ("boxes", "masks"):
        levels = torch.stack([precisions(pictures, what, float(level), count) for level in LEVELS])
        values[f"detection_{what}_map"] = levels.mean(0).tolist()
        values[f"detection_{what}_ap50"] = levels[0].tolist()
    return Outcome(values, {name: [1.0] * count for name in values}, [])


def precisions(pictures: Sequence[Picture], what: str, level: float, count: int) -> Float[Tensor, "count"]:
    """The precision at which each object is found at one overlap: of all detections that are at least as sure.

    Detections take objects in order of their sureness, each the free object that it overlaps most.
    """
    sure, hit = list[float](), list[int]()
    for masks, quality, truth, places in pictures:
        near = box_overlap(boxes_of(masks), boxes_of(truth)) if what == "boxes" else mask_overlap(masks, truth)
        for n in quality.argsort(descending=True, stable=True).tolist():
            best = int(near[n].argmax()) if len(truth) else 0
            found = len(truth) > 0 and float(near[n, best]) >= level
            sure.append(float(quality[n]))
            hit.append(places[best] if found else -1)
            if found:
                near[:, best] = -1.0                           # found once; found again is wrong
    order = np.argsort(-np.array(sure), kind="stable")
    right = np.array(hit, dtype=np.int64)[order]
    precision = np.cumsum(right >= 0) / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]   # the best at this recall or more
    out = torch.zeros(count)
    out[torch.from_numpy(right[right >= 0])] = torch.from_numpy(precision[right >= 0].copy()).float()
    return out


def mask_overlap(a: Bool[Tensor, "N H W"], b: Bool[Tensor, "M H W"]) -> Float[Tensor, "N M"]:
    """Intersection over union of every mask with every other."""
    x, y = a.flatten(1).float(), b.flatten(1).float()
    both = x @ y.T
    return both / (x.sum(1)[:, None] + y.sum(1) - both).clamp(min=1)


TASK = Detection()
