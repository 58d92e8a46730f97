"""The class of every token, as a head over tokens says: secondary structure of proteins, parts of speech.

    meristem evaluate runs/esm-residues --corpus CORPUS --tasks token_classes

A document is an item; the score is the share of its labelled tokens that are right, summed over documents, and the
interval resamples documents (Q3 for three states of proteins: Kabsch & Sander 1983). The baselines know no neighbour:
the class that each word most often has in training, and the commonest class.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.data.encoders import rows_of
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating

ON_REQUEST = True                       # only models with a head over tokens can be asked
METRIC = Metric("token_classes", "labelled tokens of held-out documents given their class", "share", "ratio", True)
TOGETHER = 32


class TokenClasses:
    """Items are test documents with a label for each word."""

    name, version, count = "token_classes", 1, 10_000
    metrics = (METRIC,)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` of them: the prompt is the text, the answer its labels."""
        found = [d for d in corpus.documents("test") if "labels" in d.fields]
        return [Item(d.id, d.text, "\0".join(d.fields["labels"])) for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Right tokens of each document, and how many it has; what does not fit the context is not counted."""
        if not isinstance(subject, Subject) or vars(subject.module.config).get("head") != "token":
            raise RequestError("token_classes needs a head over tokens; fine-tune one with model.head=token")
        config: Any = subject.module.config
        right, count = [], []
        with evaluating(subject.module):
            for start in range(0, len(items), TOGETHER):
                some = [(i.prompt.split(" "), i.answer.split("\0")) for i in items[start:start + TOGETHER]]
                batch = rows_of(some, subject.codec, config.labels, config.context)
                said = subject.module(batch["tokens"][:, :-1], batch["segments"]).argmax(-1)
                known = batch["labels"] >= 0
                right += ((said == batch["labels"]) & known).sum(1).tolist()
                count += known.sum(1).tolist()
        return _outcome(right, count)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """What each word is most often called, and what any is."""
        each: dict[str, Counter[str]] = {}
        for document in corpus.documents("train"):
            for word, label in zip(document.fields.get("words", ()), document.fields.get("labels", ()), strict=True):
                if label:
                    each.setdefault(word, Counter())[label] += 1
        overall: Counter[str] = sum(each.values(), Counter())
        usual = overall.most_common(1)[0][0]
        best = {word: counts.most_common(1)[0][0] for word, counts in each.items()}

        def judged(table: dict[str, str]) -> Outcome:
            pairs = [list(zip(item.prompt.split(" "), item.answer.split("\0"), strict=True)) for item in items]
            return _outcome([sum(table.get(word, usual) == label for word, label in some) for some in pairs],
                            [sum(bool(label) for _, label in some) for some in pairs])
        return {METRIC.name: Baseline("the usual class of each word", judged(best)),
                f"{METRIC.name}/usual": Baseline("the commonest class", judged({}))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """A label is right by definition."""
        return {}


def _outcome(right: Sequence[int], count: Sequence[int]) -> Outcome:
    return Outcome({METRIC.name: [float(n) for n in right]}, {METRIC.name: [float(n) for n in count]}, [])


TASK = TokenClasses()
