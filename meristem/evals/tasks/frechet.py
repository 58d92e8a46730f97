"""How far a model's pictures are from held-out ones: the Frechet distance, 0 for pictures of the same distribution.

Items are pictures of the test split; the model paints one for each, told its caption or its class where it was trained
with one. Baseline: pictures whose every pixel is drawn from the training pictures' own at that place. Ceiling: the
training pictures themselves. The features are `evals.frechet`'s; less is better.

    meristem evaluate runs/diffusion --corpus runs/scenes --tasks frechet --limit 500
"""
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.frechet import SIDE, features, pseudo
from meristem.evals.pictures import Pictured, Seen
from meristem.evals.subject import Subject
from meristem.generate.pictures import Wish, paint
from meristem.train.painting import as_bytes, open_run

ON_REQUEST = True                       # a picture an item is painted
TOGETHER = 64                           # asked for at once, to show progress
METRIC = Metric("frechet", "Frechet distance of painted from held-out pictures, in fixed features, jackknifed",
                "distance", "ratio", False)


class Frechet(Pictured):
    """Items are test pictures; `prompt` is the name in the tar, `answer` what the model is told."""

    name, version, count = "frechet", 1, 500
    metrics = (METRIC,)

    def fits(self, module: nn.Module) -> str:
        """Whether a model paints is for its run to say."""
        return ""

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` pictures of the test split."""
        found = [d for d in corpus.documents("test") if "image" in d.fields]
        return [Item(d.id, d.fields["image"], d.fields.get("label", "")) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Paint a picture an item, in their order; a model of classes is told the label, one of captions the text."""
        assert isinstance(subject, Subject)
        if subject.folder is None:
            raise RequestError("frechet paints as the run says: name the run folder, not a model folder inside")
        objective, codec = open_run(subject.folder)
        painter = objective.painter(codec)
        test = self.asked(items, painter.side, painter.channels)
        made = []
        for start in range(0, len(items), TOGETHER):
            progress.update(start)
            rows = slice(start, start + TOGETHER)
            told = {"": [""] * len(test.ids), "labels": test.labels, "captions": test.captions}[objective.reads][rows]
            made.append(as_bytes(paint(painter, Wish(tuple(told), seed=seed_of(seed, self.name, start)))).numpy())
        return self._outcome(test, np.concatenate(made))

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Every pixel from a training picture of its own."""
        train, test = Seen.of(corpus, "train", SIDE), self.asked(items, SIDE, 3)
        rng = np.random.default_rng(seed_of(seed, self.name, "baseline"))
        rows = rng.integers(0, len(train.pixels), (len(items), 1, SIDE, SIDE))
        made = np.take_along_axis(np.asarray(train.pixels), np.repeat(rows, 3, 1), 0)
        return {METRIC.name: Baseline("every pixel from another training picture", self._outcome(test, made))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """Training pictures, as many."""
        train, test = Seen.of(self.corpus, "train", SIDE), self.asked(items, SIDE, 3)
        if len(train.pixels) < len(items):
            return {}
        rows = np.random.default_rng(seed_of(self.corpus.hash, self.name)).permutation(len(train.pixels))[:len(items)]
        value = float(pseudo(features(test.pixels), features(train.pixels[np.sort(rows)])).mean())
        return {METRIC.name: Reference(value, "training pictures instead of painted ones")}

    def _outcome(self, test: Seen, made: UInt8[np.ndarray, "N C H W"]) -> Outcome:
        values = pseudo(features(test.pixels), features(made)).tolist()
        return Outcome({METRIC.name: values}, {METRIC.name: [1.0] * len(values)}, [])


TASK = Frechet()
