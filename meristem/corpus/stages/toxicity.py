"""Toxic prose out, by a linear n-gram classifier that was trained on labelled rows (recipe `quality`).

The kind that Jigsaw's and Dolma's taggers are (Soldaini et al. 2024, https://arxiv.org/abs/2402.00159, section 3.3). No
weights are bundled: what counts as toxic is the rows' to say. Such a filter knows words, not what is done with them:
`python -m benchmarks.toxicity` has what it gets right and wrong on HateCheck, by function.

    meristem curate crawl.warc.gz --stages "toxicity:run=runs/toxicity,label=toxic,most=0.5" --out runs/web
    meristem curate crawl.warc.gz --stages "toxicity:run=runs/toxicity,lines=true" --out runs/web      # lines alone
"""
from dataclasses import dataclass
from typing import Any

from meristem.corpus.linear import Linear
from meristem.corpus.stages.base import Batch, changed
from meristem.corpus.stages.quality import by_probability


@dataclass(frozen=True)
class Stage:
    """`run`: the classifier's run folder; `label`: the one that must not be more probable than `most`.

    With `lines` each line of prose is judged by itself and toxic ones go; a document of which nothing is left goes too.
    """

    run: str
    label: str = "toxic"
    most: float = 0.5
    lines: bool = False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `toxicity`, or `toxic_lines`, among the facts of its prose; rule `toxicity`."""
        if not self.lines:
            return by_probability(batch, self.run, self.label, "toxicity", lambda p: p > self.most)
        cut = changed(batch, lambda text, kind: self._cut(text) if kind == "prose" else (text, {}))
        bare = ["toxic_lines" in facts and not text.strip()
                for facts, text in zip(cut["facts"], cut["text"], strict=True)]
        return {**cut, "rule": ["toxicity" if gone else rule for gone, rule in zip(bare, cut["rule"], strict=True)],
                "value": ["every line" if gone else value for gone, value in zip(bare, cut["value"], strict=True)]}

    def _cut(self, text: str) -> tuple[str, dict[str, Any]]:
        model, lines = Linear.open(self.run), text.split("\n")
        found = model.probabilities(lines)[:, model.number(self.label)]
        kept = [line for line, p in zip(lines, found, strict=True) if p <= self.most or not line.strip()]
        removed = len(lines) - len(kept)
        return ("\n".join(kept), {"toxic_lines": removed} if removed else {})
