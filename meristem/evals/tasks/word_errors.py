"""Word error rate of speech to text: words to insert, drop or change, over the words that were said.

Levenshtein 1966 on words, lower-cased and without marks, as usual since NIST's sclite; summed over sounds, so the
interval resamples sounds. The baseline writes the commonest training text, whatever was said.

    meristem evaluate runs/listen --corpus CORPUS --tasks word_errors
"""
import re
from collections import Counter
from collections.abc import Callable, Sequence

from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.sounds import Sounding, of_split
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating
from meristem.generate.listen import transcribe

ON_REQUEST = True                       # only models that write what they hear can be asked
METRIC = Metric("word_errors", "words to insert, drop or change, over the words said", "errors a word", "ratio", False)
WORD = re.compile(r"[\w']+")


class WordErrors(Sounding):
    """Items are test sounds with a text."""

    name, version, count, field = "word_errors", 1, 10_000, "text"
    metrics = (METRIC,)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """What the model writes of each sound."""
        if not isinstance(subject, Subject) or vars(subject.module.config).get("head") not in ("lm", "ctc"):
            raise RequestError("word_errors needs a model that writes what it hears: a whisper, or model.head=ctc")
        sounds = self.heard(items, subject.module)
        with evaluating(subject.module):
            return judged(transcribe(subject.module, subject.codec, sounds), items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The commonest training text."""
        usual = Counter(d.text for d in of_split(corpus, "train")).most_common(1)[0][0]
        return {METRIC.name: Baseline("always the commonest training text", judged([usual] * len(items), items))}


def judged(texts: Sequence[str], items: Sequence[Item]) -> Outcome:
    """Errors and words of each item."""
    pairs = [(WORD.findall(text.lower()), WORD.findall(item.answer.lower())) for text, item in
             zip(texts, items, strict=True)]
    return Outcome({METRIC.name: [float(distance(a, b)) for a, b in pairs]},
                   {METRIC.name: [float(max(1, len(b))) for _, b in pairs]}, list(texts))


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest words to insert, drop or change to make one list of the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


TASK = WordErrors()
