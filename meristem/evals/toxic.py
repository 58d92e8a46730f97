"""A filter for hateful text: logistic regression on hashed words and characters, by scikit-learn.

    found = Filter.fit(phrases, hateful); found.scores(["..."])        # above 0: hateful

It knows what it was shown and no more: its area under the ROC curve on other data belongs beside every use of it
(`evals/tasks/toxicity.py`).
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meristem.core.errors import RequestError


@dataclass(frozen=True)
class Filter:
    """A fitted pipeline."""

    pipeline: Any

    @classmethod
    def fit(cls, texts: Sequence[str], hateful: Sequence[bool], seed: int = 0) -> "Filter":
        """Words and pairs of words, characters in runs of 3 to 5; RequestError without scikit-learn."""
        try:
            from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]
            from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
            from sklearn.pipeline import make_pipeline, make_union  # type: ignore[import-untyped]
        except ImportError:
            raise RequestError("the filter is scikit-learn's, which is not installed: pip install scikit-learn"
                               ) from None
        features = make_union(HashingVectorizer(n_features=1 << 16, ngram_range=(1, 2)),
                              HashingVectorizer(n_features=1 << 16, ngram_range=(3, 5), analyzer="char_wb"))
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=200, random_state=seed, solver="liblinear")
        return cls(make_pipeline(features, model).fit(list(texts), list(hateful)))

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Log-odds of each text."""
        return [float(x) for x in self.pipeline.decision_function(list(texts))]
