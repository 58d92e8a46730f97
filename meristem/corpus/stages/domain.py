"""What a document is about, by a classifier whose labels are domains (recipe `quality`): a fact, nothing is dropped.

The fact `domain` names sources of a mixture (`data.mixture.by=domain`, data/mixture.py), as WebOrganizer's domains do
(Wettig et al. 2025, https://arxiv.org/abs/2502.10341). `--stages domain:run=runs/domains`.
"""
from dataclasses import dataclass

from meristem.corpus.linear import Linear
from meristem.corpus.stages.base import Batch


@dataclass(frozen=True)
class Stage:
    """`run`: the classifier's run folder; less than `least` for its best label, and a document's domain is "other"."""

    run: str
    least: float = 0.0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `domain` and `domain_probability` among the facts of what stays."""
        model = Linear.open(self.run)
        which = [n for n, rule in enumerate(batch["rule"]) if not rule]
        facts = list(batch["facts"])
        for n, row in zip(which, model.probabilities([batch["text"][n] for n in which]), strict=True):
            best, probability = model.labels[int(row.argmax())], round(float(row.max()), 4)
            facts[n] = {**facts[n], "domain": best if probability >= self.least else "other",
                        "domain_probability": probability}
        return {**batch, "facts": facts}
