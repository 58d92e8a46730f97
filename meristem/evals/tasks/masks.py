"""Masks for clicks and boxes: mean IoU after one click, after more into what is still wrong, and for a box.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 7.1 and appendix D.1: the first click is the middle of
the object (the place deepest inside), each further one the middle of the largest error. One click may mean several
things: `masks_1_click` is the answer that the model itself ranks first of three, `masks_best_of_3` the best of them,
`masks_ranked` how often these are the same. Baselines: a region of like colour that grows from the clicks; the ellipse
in the box.

    meristem evaluate runs/sam --corpus runs/objects --tasks masks
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
from meristem.evals.segments import SIDE, TOLERANCE, Masked, by_picture, ellipse, flood
from meristem.evals.subject import Subject
from meristem.generate.segment import ask, see, single
from meristem.nn.segment import AWAY, OBJECT, at, boxes_of, centre, overlap, prompts

CLICKS = (1, 3, 5)
TOLERANCES = (TOLERANCE, TOLERANCE / 2, 2 * TOLERANCE)         # three guesses, as the model has


def _metric(name: str, what: str, unit: str = "IoU") -> Metric:
    return Metric(f"masks_{name}", what, unit, "ratio", True)


METRICS = (
    *(_metric(f"{n}_click{'s' if n > 1 else ''}", f"overlap with the object after {n} click{'s' if n > 1 else ''}")
      for n in CLICKS),
    _metric("best_of_3", "overlap of the best of the three masks for one click"),
    _metric("ranked", "one-click prompts whose first-ranked mask is the best of the three", "share"),
    _metric("box", "overlap with the object for its box"))


class Masks(Masked):
    """Items are objects of test pictures."""

    name, version, count = "masks", 1, 600
    metrics = METRICS

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Picture by picture, all its objects at once."""
        assert isinstance(subject, Subject)
        side, channels = shape(subject.module)
        values = {metric.name: [0.0] * len(items) for metric in METRICS}
        done = 0
        for pixels, truth, places in by_picture(self.corpus, items, side, channels):
            for name, some in self.scores(subject, pixels, truth).items():
                for place, value in zip(places, some.tolist(), strict=True):
                    values[name][place] = value
            done += len(places)
            progress.update(done)
        return Outcome(values, {metric.name: [1.0] * len(items) for metric in METRICS}, [])

    def scores(self, subject: Subject, pixels: np.ndarray, truth: Bool[Tensor, "P S S"]) -> dict[str, Tensor]:
        """Every metric for every object of one picture."""
        module = subject.module
        seen = see(module, pixels)
        found = ask(module, seen, *prompts(boxes=boxes_of(truth)))
        out = {"masks_box": overlap(found.masks, truth)}
        found = ask(module, seen, *single(centre(truth)))
        three = overlap(found.all_masks[:, 1:], truth[:, None].expand_as(found.all_masks[:, 1:]))
        out["masks_best_of_3"] = three.amax(1)
        out["masks_ranked"] = (overlap(found.masks, truth) >= three.amax(1)).float()
        points, signs = centre(truth)[:, None], torch.full((len(truth), 1), OBJECT)
        for n in range(1, max(CLICKS) + 1):
            if n in CLICKS:
                out[f"masks_{n}_click{'s' if n > 1 else ''}"] = overlap(found.masks, truth)
            if n < max(CLICKS):
                points, signs = further(points, signs, found.masks, truth)
                found = ask(module, seen, *prompts(points, signs), found.drafts)
        return out

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Regions of like colour, ellipses, and chance for the ranking of three."""
        values = {metric.name: [1 / 3] * len(items) for metric in METRICS}
        for pixels, truth, places in by_picture(corpus, items, SIDE, 3):
            box = overlap(torch.from_numpy(np.stack([ellipse(b, SIDE) for b in boxes_of(truth)])), truth)
            guesses = []
            for tolerance in TOLERANCES:
                points, signs = centre(truth)[:, None], torch.full((len(truth), 1), OBJECT)
                for n in range(1, max(CLICKS) + 1):
                    masks = torch.from_numpy(np.stack([grown_from(pixels, p, s, tolerance)
                                                       for p, s in zip(points, signs, strict=True)]))
                    if n in CLICKS and tolerance == TOLERANCE:
                        name = f"masks_{n}_click{'s' if n > 1 else ''}"
                        _put(values[name], places, overlap(masks, truth))
                    if n == 1:
                        guesses.append(overlap(masks, truth))
                        if tolerance != TOLERANCE:
                            break
                    points, signs = further(points, signs, masks, truth)
            _put(values["masks_best_of_3"], places, torch.stack(guesses).amax(0))
            _put(values["masks_box"], places, box)
        weights = [1.0] * len(items)
        what = {"masks_box": "the ellipse in the box", "masks_ranked": "chance",
                "masks_best_of_3": "like colours, three tolerances"}
        return {name: Baseline(what.get(name, "like colours around the clicks"), Outcome({name: some}, {name: weights},
                                                                                         []))
                for name, some in values.items()}


def further(points: Float[Tensor, "P N 2"], signs: Tensor, masks: Bool[Tensor, "P S S"],
            truth: Bool[Tensor, "P S S"]) -> tuple[Tensor, Tensor]:
    """One more click for each object: the middle of its largest error; the object's own middle where there is none."""
    wrong = masks != truth
    wrong = torch.where(wrong.any(-1).any(-1)[:, None, None], wrong, truth)
    where = centre(wrong)
    sign = torch.where(at(truth, where), OBJECT, AWAY)
    return torch.cat([points, where[:, None]], 1), torch.cat([signs, sign[:, None]], 1)


def grown_from(pixels: np.ndarray, points: Float[Tensor, "N 2"], signs: Tensor, tolerance: float) -> np.ndarray:
    """Regions of like colour around the clicks on the object, less those around the others."""
    mask = np.zeros(pixels.shape[1:], dtype=bool)
    for (x, y), sign in zip(points.int().tolist(), signs.tolist(), strict=True):
        region = flood(pixels, x, y, tolerance)
        mask = mask | region if sign == OBJECT else mask & ~region
    return mask


def _put(column: list[float], places: Sequence[int], values: Tensor) -> None:
    for place, value in zip(places, values.tolist(), strict=True):
        column[place] = value


TASK = Masks()
