"""Toxic prose out, by a linear n-gram classifier that was trained on labelled rows (recipe `quality`).

The kind that Jigsaw's and Dolma's taggers are (Soldaini et al. 2024, https://arxiv.org/abs/2402.00159, section 3.3). No
weights are bundled: what counts as toxic is the rows' to say. Such a filter knows words, not what is done with them:
`python -m benchmarks.toxicity` has what it gets right and wrong on HateCheck, by function.

    meristem curate crawl.warc.gz --stages "toxicity:run=runs/toxicity,label=toxic,most=0.5" --out runs/web
"""
from dataclasses import dataclass

from meristem.corpus.stages.base import Batch
from meristem.corpus.stages.quality import by_probability


@dataclass(frozen=True)
class Stage:
    """`run`: the classifier's run folder; `label`: the one that must not be more probable than `most`."""

    run: str
    label: str = "toxic"
    most: float = 0.5

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `toxicity` among the facts of its prose; rule `toxicity`."""
        return by_probability(batch, self.run, self.label, "toxicity", lambda p: p > self.most)
