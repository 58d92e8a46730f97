"""Shape or texture: which a network goes by where the two say different classes.

Geirhos et al. 2018, https://arxiv.org/abs/1811.12231, figure 4: of the answers that name the class of the shape or that
of the texture, the share that name the shape's. The pictures are the test split of `meristem curate toy:cues`; a model
with a head of classes answers by it, any other by its nearest training pictures. Baseline: the nearest by pixels.

    meristem evaluate runs/resnet --corpus runs/cues --tasks cue_conflict
"""
import re
from collections.abc import Callable, Sequence

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.pictures import RAW, Pictured, raw, shape
from meristem.evals.subject import Subject
from meristem.evals.tasks.classes import answered
from meristem.evals.tasks.knn import nearest

CAPTION = re.compile(r"a (\w+) with the texture of a (\w+)")
SHAPE = Metric("shape_decisions", "answers that name the shape, of those that name shape or texture", "share", "ratio",
               True)
DECIDED = Metric("decided", "pictures of conflicting cues named by shape or by texture", "share", "share", True)


class CueConflict(Pictured):
    """Items are test pictures whose caption names a texture of another class; the answer is "shape/texture"."""

    name, version, count = "cue_conflict", 1, 2000
    metrics = (SHAPE, DECIDED)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Those of `Pictured.items` with conflicting cues; none in another corpus."""
        captions = {d.id: CAPTION.fullmatch(d.text) for d in corpus.documents("test")}
        made = [(item, found) for item in super().items(corpus, codec, limit, seed) if (found := captions[item.group])]
        return [Item(item.group, item.prompt, f"{found[1]}/{found[2]}") for item, found in made if found[1] != found[2]]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """One answer a picture."""
        assert isinstance(subject, Subject)
        module = subject.module
        return _outcome(answered(self, module, self.asked(items, *shape(module)).pixels), items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Nearest neighbours by pixels."""
        train = self.pool(RAW, 3)
        said = _outcome(nearest(train.labels, raw(train.pixels), raw(self.asked(items, RAW, 3).pixels)), items)
        return {metric.name: Baseline("nearest neighbours by pixels", said) for metric in self.metrics}


def _outcome(outputs: list[str], items: Sequence[Item]) -> Outcome:
    pairs = [(out, *item.answer.split("/")) for out, item in zip(outputs, items, strict=True)]
    by_shape, decided = ([float(out in cues[:n]) for out, *cues in pairs] for n in (1, 2))
    return Outcome({SHAPE.name: by_shape, DECIDED.name: decided},
                   {SHAPE.name: decided, DECIDED.name: [1.0] * len(items)}, outputs)


TASK = CueConflict()
