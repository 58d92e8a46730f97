"""Does a painted picture show what its caption says? An independently trained classifier judges.

    meristem pretrain vit data.corpus=OTHER --out runs/judge       # a corpus of its own, with all labels
    meristem evaluate runs/dalle --corpus CORPUS --tasks caption_consistency=runs/judge

Each caption of the test split is painted once, with seed and usual settings; right is a picture in which the judge sees
the row's label. Where the corpus keeps pairs for its test split (toy:scenes), these are combinations that the model
never saw; `caption_consistency_seen` asks the captions of the validation split. Beside the score: what the judge makes
of the real pictures, which bounds it. DALL-E's and unCLIP's own scores were people's choices between pictures.
"""
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.judge import Judge
from meristem.evals.pictures import Seen, shape
from meristem.evals.subject import Subject
from meristem.generate.pictures import Wish, paint
from meristem.train.painting import as_bytes, open_painter

ON_REQUEST = True
TOGETHER = 64                           # pictures between two lines of progress


@dataclasses.dataclass(frozen=True)
class CaptionConsistency:
    """Captions of one split, judged by the classifier of a folder."""

    name: str = "caption_consistency"
    split: str = "test"
    judge: Path | None = None
    version: int = 1
    count: int = 256

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One share."""
        return (Metric(self.name, "pictures in which the judge sees what the caption names first", "of pictures",
                       "share", True),)

    def reading(self, file: Path) -> "CaptionConsistency":
        """With the judge of a folder."""
        return dataclasses.replace(self, judge=file)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Captions of labelled pictures: a prompt is a caption, its answer the label."""
        known = set(self.labels())
        found = [d for d in corpus.documents(self.split) if "image" in d.fields and d.fields.get("label") in known]
        return [Item(d.id, d.text, d.fields["label"]) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Paint every caption and ask the judge."""
        if not isinstance(subject, Subject) or subject.folder is None:
            raise RequestError(f"{self.name} paints with a run folder; give one that meristem pretrain wrote")
        painter = open_painter(subject.folder)
        said: list[str] = []
        progress.stage("paint", len(items))
        for start in range(0, len(items), TOGETHER):
            texts = tuple(item.prompt for item in items[start:start + TOGETHER])
            images = as_bytes(paint(painter, Wish(texts, seed=seed_of(seed, "paint", start)))).numpy()
            said += self.named(images)
            progress.update(len(said))
        return outcome(self.name, items, said)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Chance, and what the judge makes of the real pictures."""
        chance = 1 / len(self.labels())
        guess = Outcome({self.name: [chance] * len(items)}, {self.name: [1.0] * len(items)}, [])
        side, channels = shape(self.classifier().loaded.module)
        real = Seen.of(corpus, self.split, side, channels)
        place = {name: row for row, name in enumerate(real.ids)}
        said = self.named(real.rows([place[item.group] for item in items]).pixels)
        return {self.name: Baseline("chance", guess),
                f"{self.name}/real": Baseline("the judge on the real pictures", outcome(self.name, items, said))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The real pictures stand among the baselines."""
        return {}

    def classifier(self) -> Judge:
        """The judge; RequestError without one."""
        if self.judge is None:
            raise RequestError(f"who judges? write {self.name}=FOLDER, a classifier of pictures that was trained on "
                               "other pictures with all labels")
        return Judge(self.judge)

    def labels(self) -> tuple[str, ...]:
        """What the judge tells apart."""
        return self.classifier().labels

    def named(self, pixels: UInt8[np.ndarray, "N C H W"]) -> list[str]:
        """The label that the judge sees in each picture."""
        return self.classifier().named(pixels)


def outcome(name: str, items: Sequence[Item], said: list[str]) -> Outcome:
    """Right where the judge says the item's answer."""
    right = [float(item.answer == word) for item, word in zip(items, said, strict=True)]
    return Outcome({name: right}, {name: [1.0] * len(right)}, said)


TASK = CaptionConsistency()
