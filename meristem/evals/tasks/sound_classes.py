"""The class of a sound, as the model's own head says; beside it logistic regression on its spectrum.

    meristem evaluate runs/spoken --corpus CORPUS --tasks sound_classes
"""
from collections.abc import Callable, Sequence

from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.classic import outcome
from meristem.evals.sounds import Sounding, by_spectrum, logits
from meristem.evals.subject import Subject

ON_REQUEST = True                       # only models with a head of classes of sounds can be asked
METRIC = Metric("sound_classes", "held-out sounds given their class", "share", "share", True)


class SoundClasses(Sounding):
    """Items are labelled test sounds."""

    name, version, count = "sound_classes", 1, 10_000
    metrics = (METRIC,)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """The likeliest class of each sound."""
        if not isinstance(subject, Subject) or vars(subject.module.config).get("head") != "audio":
            raise RequestError("sound_classes needs a head of classes of sounds; train one with model.head=audio")
        names = vars(subject.module.config)["labels"]
        said = logits(subject.module, self.heard(items, subject.module)).argmax(1)
        return outcome(METRIC.name, [names[i] for i in said.tolist()], items)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Logistic regression on the log-mel spectrum of the first second."""
        said = by_spectrum(corpus, items, lambda d: d.fields["label"], seed)
        return {METRIC.name: Baseline("logistic regression on the spectrum", outcome(METRIC.name, said, items))}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """The share of the commonest class among the items."""
        answers = [item.answer for item in items]
        return {METRIC.name: Reference(max(answers.count(a) for a in set(answers)) / len(answers),
                                       "always the commonest class")}


TASK = SoundClasses()
