"""SciTLDR: an abstract's one-sentence summary, judged by ROUGE against the authors' and reviewers' own.

Cachola et al. 2020, https://arxiv.org/abs/2004.15011 (of several references the best counts, section 4). Files:
test.jsonl and train.jsonl of SciTLDR-A. ROUGE (Lin 2004) is rouge-score's: pip install rouge-score. Baseline: the
abstract's first sentence.

    meristem evaluate RUN --tasks scitldr --data FOLDER
"""
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric
from meristem.evals.benchmark import Written

ON_REQUEST = True
KINDS = ("rouge1", "rouge2", "rougeL")


class SciTldr(Written):
    """Items are abstracts; `suffix` holds every reference, a line each."""

    name, count = "scitldr", 200
    length = 48
    url = "https://github.com/allenai/scitldr"
    folders = ("scitldr",)
    templates = ("{}\nTL;DR:", "{}\nIn one sentence:", "Abstract: {}\nSummary:", "{}\nSummary:", "{}\nIn short,",
                 "Summarise this abstract.\n{}\nSummary:", "Paper: {}\nThe main point is", "User: {}\nAssistant:")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """F1 of ROUGE-1, -2 and -L."""
        return tuple(Metric(f"scitldr_{kind.lower()}", f"scitldr: {kind} F1 of the summary", "share", "ratio", True)
                     for kind in KINDS)

    @cached_property
    def scorer(self) -> Any:
        """rouge-score's scorer; RequestError without the library."""
        try:
            from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
        except ImportError:
            raise RequestError("scitldr is judged by rouge-score, which is not installed: pip install rouge-score"
                               ) from None
        return RougeScorer(list(KINDS), use_stemmer=True)

    def read(self) -> list[Item]:
        """The test split."""
        return self._items("test.jsonl")

    def examples(self) -> list[Item]:
        """The training split."""
        return self._items("train.jsonl")

    def grade(self, item: Item, text: str) -> list[float]:
        """The best reference counts, for each kind."""
        every = [self.scorer.score(reference, text) for reference in item.suffix.split("\n")]
        return [max(found[kind].fmeasure for found in every) for kind in KINDS]

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The first sentence."""
        made = self.outcome(items, [item.stem.split(". ")[0] for item in items])
        return {name: Baseline("the abstract's first sentence", made) for name in made.values}

    def _items(self, name: str) -> list[Item]:
        out = []
        for n, row in enumerate(self.rows(name, fields=("source", "target"))):
            text = " ".join(sentence.strip() for sentence in row["source"])
            targets = [" ".join(t.split()) for t in row["target"] if t.strip()]
            out.append(Item(f"{name}/{n}", self.templates[0].replace("{}", text), targets[0],
                            suffix="\n".join(targets), stem=text, evidence=text))
        return out


TASK = SciTldr()
