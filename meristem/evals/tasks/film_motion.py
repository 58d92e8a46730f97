"""What generated films show, measured by a tracker: the thing that was asked for, all the time, on a straight way.

    meristem evaluate runs/film --corpus runs/clips --tasks film_motion

Items are captions of the test split of `toy:clips`. A film keeps its identity when at least nine tenths of its frames
show a thing of the colour that the caption names; it moves as asked when the tracker sees the motion that the caption
names; and the bend is how far its way is from a straight one at constant speed, beside that of its own frames in a
random order. Baseline: the real films, tracked.
"""
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.clips import stored, track
from meristem.data.pictures import names_of
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.bound import OnCorpus, drawn
from meristem.evals.subject import Subject
from meristem.generate.pictures import Wish, paint
from meristem.train.painting import as_bytes, open_painter

ON_REQUEST = True
KEPT = 0.9                              # of the frames
LOST = 0.5                              # the bend of a film that shows nothing: half a side
METRICS = (
    Metric("film_identity", "films of which nine tenths of the frames show the colour asked for", "share", "share",
           True),
    Metric("film_motion", "films that move as they were asked to", "share", "ratio", True),
    Metric("film_bend", "distance from a straight way at constant speed", "of a side", "ratio", False),
    Metric("film_bend_shuffled", "the same of the frames in a random order", "of a side", "ratio", False))


class FilmMotion(OnCorpus):
    """Items are captions of test films."""

    name, version, count = "film_motion", 1, 128
    metrics = METRICS

    def fits(self, module: nn.Module) -> str:
        """A model that paints films is needed."""
        return "" if vars(module.config).get("frames", 1) > 1 else "this model paints no films"

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` captions."""
        found = [d for d in corpus.documents("test") if names_of(d) and "label" in d.fields]
        return [Item(d.id, d.text, d.fields["label"]) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Paint every caption and follow what it shows."""
        if not isinstance(subject, Subject) or subject.folder is None:
            raise RequestError("film_motion paints with a run folder; give one that meristem pretrain wrote")
        painter = open_painter(subject.folder)
        wish = Wish(tuple(item.prompt for item in items), seed=seed_of(seed, "paint"))
        return judged(items, as_bytes(paint(painter, wish)).numpy(), seed)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The real films."""
        rows = {d.id: n for n, d in enumerate(d for d in corpus.documents("test") if names_of(d))}
        first = next(d for d in corpus.documents("test") if names_of(d))
        films = stored(corpus, len(names_of(first)), 32, 3)["test"][[rows[item.group] for item in items]]
        made = judged(items, films, seed)
        return {metric.name: Baseline("the real films of these captions", made) for metric in METRICS}


def judged(items: Sequence[Item], films: np.ndarray, seed: int) -> Outcome:
    """Films uint8 [N, F, 3, H, W], one a caption, as a tracker sees them."""
    rng = np.random.default_rng(seed_of(seed, "film_motion", "shuffled"))
    rows = []
    for item, film in zip(items, films, strict=True):
        seen = track(film)
        bends = [seen.bend(), seen.bend(rng.permutation(len(film)))]
        rows.append([float(seen.kept >= KEPT and seen.colour in item.prompt.split()),
                     float(seen.motion == item.answer), *np.nan_to_num(bends, nan=LOST)])
    values = {metric.name: [row[n] for row in rows] for n, metric in enumerate(METRICS)}
    return Outcome(values, {name: [1.0] * len(items) for name in values}, [])


TASK = FilmMotion()
