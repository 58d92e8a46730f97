"""Detection: every object of a picture found by itself, judged by average precision of boxes and of masks.

Everything that a promptable model finds by a grid of clicks (`generate.segment.everything`), shadows too, best first.
Average precision is the area under precision against recall over all pictures, precision being the best at that
recall or more, and its mean over overlaps from 0.5 to 0.95 in steps of 0.05 (Lin et al. 2014,
https://arxiv.org/abs/1405.0312, the COCO metric; at most 100 detections a picture). What is found is an object of no
kind; with a classifier of pictures it is named, too, by what the square around it shows, and the mean over kinds of
each kind's average precision is the COCO metric in full. Baseline: connected parts whose colour is not the ground's,
the largest first, named by the same classifier.

    meristem evaluate runs/sam --corpus runs/objects --tasks detection=runs/names

An object counts with the precision at which it is found, 0 if it is not: the mean of these is the average precision,
and its interval resamples pictures with the precisions held fixed.
"""
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.judge import Judge, crops
from meristem.evals.pictures import shape
from meristem.evals.segments import SIDE, Masked, by_picture, pieces
from meristem.evals.subject import Subject
from meristem.generate.segment import everything
from meristem.nn.segment import box_overlap, boxes_of

LEVELS = torch.arange(0.5, 0.96, 0.05)
MOST = 100                              # detections of a picture that count
WAYS = [(what, name, level) for what in ("boxes", "masks")
        for name, level in (("map", "0.5 to 0.95"), ("ap50", "0.5"))]
METRICS = tuple(Metric(f"detection_{what}_{name}", f"average precision of {what} at an overlap of {level}", "precision",
                       "ratio", True) for what, name, level in WAYS)
NAMED = tuple(Metric(f"detection_named_{what}_{name}", f"mean over kinds of the average precision of {what} at an "
                     f"overlap of {level}", "precision", "ratio", True) for what, name, level in WAYS)
Picture = tuple[Bool[Tensor, "N H W"], Float[Tensor, "N"], Bool[Tensor, "P H W"], list[int]]
Names = list[list[str]]                 # of what was found, picture by picture


class Detection(Masked):
    """Items are the objects of test pictures: all of a picture or none; an answer is an object's name."""

    name, version, count = "detection", 2, 400
    shadows = None
    judge: Judge | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """With a judge, also those of kinds."""
        return METRICS + (NAMED if self.judge else ())

    def reading(self, file: Path) -> "Detection":
        """With the classifier of a folder, which names what is found."""
        made = copy.copy(self)
        made.judge = Judge(file)
        return made

    def items(self, corpus: Corpus, codec, limit: int, seed: int) -> list[Item]:   # noqa: ANN001 - as in the base
        """Whole pictures: what else is found in one is wrong only if all its objects are known."""
        found = super().items(corpus, codec, 1 << 62, seed)
        last = found[limit:limit + 1]
        return found[:limit] if not last else [item for item in found[:limit] if item.group != last[0].group]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Everything in each picture, then precision over all of them."""
        assert isinstance(subject, Subject)
        pictures, names = list[Picture](), Names()
        for pixels, truth, places in by_picture(self.corpus, items, *shape(subject.module)):
            masks, quality = everything(subject.module, pixels)
            pictures.append((masks[:MOST], quality[:MOST], truth, places))
            names.append(self.named(pixels, masks[:MOST]))
            progress.update(sum(len(p[3]) for p in pictures))
        return self.outcome(pictures, names, items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Connected parts of another colour than the ground's."""
        pictures, names = list[Picture](), Names()
        for pixels, truth, places in by_picture(corpus, items, SIDE, 3):
            masks = torch.from_numpy(pieces(np.asarray(pixels)))[:MOST]
            pictures.append((masks, masks.flatten(1).float().mean(1), truth, places))
            names.append(self.named(pixels, masks))
        made = self.outcome(pictures, names, items)
        return {m.name: Baseline("connected parts unlike the ground", made) for m in self.metrics}

    def named(self, pixels: UInt8[np.ndarray, "C H W"], masks: Bool[Tensor, "N H W"]) -> list[str]:
        """What the judge says of each mask; nothing without one."""
        return self.judge.named(crops(pixels, masks, shape(self.judge.loaded.module)[0])) if self.judge else []

    def outcome(self, pictures: Sequence[Picture], names: Names, items: Sequence[Item]) -> Outcome:
        """Every object's precisions, kinds not told apart and told apart."""
        made = outcome(pictures, len(items))
        if not self.judge:
            return made
        kinds = [kind_of(item.answer) for item in items]
        share = torch.tensor([1 / kinds.count(kind) for kind in kinds])        # every kind counts the same
        values, weights = dict(made.values), dict(made.weights)
        each = [outcome([only(*pair, kinds, kind) for pair in zip(pictures, names, strict=True)], len(items)).values
                for kind in sorted(set(kinds))]                # an object's own kind finds it, the others do not
        for metric in METRICS:
            name = metric.name.replace("detection_", "detection_named_")
            values[name] = (torch.tensor([found[metric.name] for found in each]).sum(0) * share).tolist()
            weights[name] = share.tolist()
        return Outcome(values, weights, [])


def kind_of(name: str) -> str:
    """The kind of an object: of "heart on a star" it is heart."""
    return name.partition(" on ")[0]


def only(picture: Picture, said: Sequence[str], kinds: Sequence[str], kind: str) -> Picture:
    """What was called a kind, and the objects that are of it."""
    masks, quality, truth, places = picture
    found = torch.tensor([word == kind for word in said], dtype=torch.bool)
    there = [n for n, place in enumerate(places) if kinds[place] == kind]
    return masks[found], quality[found], truth[there], [places[n] for n in there]


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
