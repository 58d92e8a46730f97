"""FLORES: one text in many languages, translated out of one into the others; chrF and BLEU by sacrebleu.

NLLB Team 2022, https://arxiv.org/abs/2207.04672. Files: LANGUAGE.devtest, a sentence a line, line by line the same text
(eng_Latn.devtest, ...); any such files will do. The source is English where it is there, else the first language.
Scores are means over sentences (so that they have an interval) of chrF (Popovic 2015) and BLEU with exponential
smoothing.

    meristem evaluate RUN --tasks flores --data FOLDER          # pip install sacrebleu
"""
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.evals import files
from meristem.evals.base import Baseline, Item, LanguageModel, Metric
from meristem.evals.benchmark import Written

ON_REQUEST = True
SOURCE = "eng_Latn"


class Flores(Written):
    """Items are sentences; those of one line are a group, whatever the language."""

    name, count, length = "flores", 200, 64
    url = "https://github.com/facebookresearch/flores"
    folders = ("flores", "flores200_dataset/devtest", "devtest")
    templates = ("{}:", "{}\nTranslation:", "Translate.\n{}:", "{} is", "User: {}\nAssistant:", "Source {} reads",
                 "{}\n", "Sentence {}, in other words:")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Out of 100, as they are always given."""
        return (Metric("flores_chrf", "flores: chrF of the translation, mean over sentences", "points", "ratio", True),
                Metric("flores_bleu", "flores: BLEU of the translation, mean over sentences", "points", "ratio", True))

    @cached_property
    def judges(self) -> tuple[Any, Any]:
        """sacrebleu's chrF and BLEU; RequestError without the library."""
        try:
            from sacrebleu.metrics import BLEU, CHRF
        except ImportError:
            raise RequestError("flores is judged by sacrebleu, which is not installed: pip install sacrebleu") from None
        return CHRF(), BLEU(effective_order=True)

    def read(self) -> list[Item]:
        """Every sentence into every other language."""
        source = self._from().expanduser()
        places = [source, *(source / folder for folder in self.folders)]
        found = {p.name.split(".")[0]: files.read(p).splitlines() for place in places
                 for p in sorted(place.glob("*.devtest*"))}
        if len(found) < 2:
            raise RequestError(f"{source} holds no two LANGUAGE.devtest files; get them at {self.url}")
        first = SOURCE if SOURCE in found else next(iter(found))
        if uneven := [name for name, lines in found.items() if len(lines) != len(found[first])]:
            raise RequestError(f"{uneven[0]} has {len(found[uneven[0]])} lines and {first} {len(found[first])}")
        out = []
        for language, lines in found.items():
            for n, (ours, theirs) in enumerate(zip(found[first], lines, strict=True)):
                if language != first:
                    stem = f"{first}: {ours}\n{language}"
                    out.append(Item(f"line {n}", self.templates[0].replace("{}", stem), theirs, stem=stem, suffix=ours,
                                    evidence=theirs))
        return out

    def grade(self, item: Item, text: str) -> list[float]:
        """Both, of one sentence."""
        return [judge.sentence_score(text, [item.answer]).score for judge in self.judges]

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The source, left as it is."""
        made = self.outcome(items, [item.suffix for item in items])
        return {name: Baseline("the source sentence itself", made) for name in made.values}


TASK = Flores()
