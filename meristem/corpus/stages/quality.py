"""A trained classifier keeps what it takes for good: GPT-3's and DCLM's filter, with a model of your own.

Brown et al. 2020, appendix A (a linear classifier of reference text against the crawl); Li et al. 2024 (DCLM), section
4.4 (fastText). Train it on rows with text and label, then name the label that stays:

    meristem pretrain quality data.corpus=ROWS.jsonl --out runs/quality
    meristem curate crawl.warc.gz --stages "quality:run=runs/quality,keep=good,least=0.5" --out runs/web
"""
from collections.abc import Callable
from dataclasses import dataclass

from meristem.corpus.linear import Linear
from meristem.corpus.stages.base import Batch


@dataclass(frozen=True)
class Stage:
    """`run`: the classifier's run folder; `keep`: a label, which must have the probability `least`."""

    run: str
    keep: str
    least: float = 0.5

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `quality` (the label's probability) among the facts of its prose; rule `quality`."""
        return by_probability(batch, self.run, self.keep, "quality", lambda p: p < self.least)


def by_probability(batch: Batch, run: str, label: str, name: str, drops: Callable[[float], bool]) -> Batch:
    """The batch with the probability of `label` as the fact `name` of prose that stays; what `drops` refuses goes."""
    model = Linear.open(run)
    which = [n for n, (rule, kind) in enumerate(zip(batch["rule"], batch["kind"], strict=True))
             if not rule and kind == "prose"]
    rules, values, facts = list(batch["rule"]), list(batch["value"]), list(batch["facts"])
    found = model.probabilities([batch["text"][n] for n in which])[:, model.number(label)]
    for n, probability in zip(which, found.tolist(), strict=True):
        facts[n] = {**facts[n], name: round(probability, 4)}
        if drops(round(probability, 4)):
            rules[n], values[n] = name, round(probability, 4)
    return {**batch, "rule": rules, "value": values, "facts": facts}
