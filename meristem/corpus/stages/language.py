"""Which language a prose document is in, by py3langid's bundled model of 97 languages; nothing is downloaded.

langid.py (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"): naive Bayes over byte
n-grams. The first `HEAD` characters are read. `--stages language:keep=en,de` drops the others (rule `language`);
without `keep` every document is only told its language. Code, proteins and DNA are in none.
"""
from dataclasses import dataclass
from functools import cache
from typing import Any

from meristem.core.errors import RequestError
from meristem.corpus.stages.base import Batch, changed, judged

HEAD = 1000                             # characters: py3langid reads 0.6 MB/s, and a page needs no more


@dataclass(frozen=True)
class Stage:
    """`keep`: ISO 639-1 codes parted by commas, empty for all; `least`: the least probability of one of them."""

    keep: str = ""
    least: float = 0.0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `language` and `language_probability` among the facts."""
        if unknown := sorted(set(self._wanted) - set(_identifier().labels)):
            raise RequestError(f"language:keep names {', '.join(unknown)}; known: {', '.join(_identifier().labels)}")
        told = changed(batch, lambda text, kind: (text, identify(text) if kind == "prose" else {}))
        left = iter([facts for facts, rule in zip(told["facts"], told["rule"], strict=True) if not rule])
        return judged(told, lambda text, kind: self._broken(next(left)))

    @property
    def _wanted(self) -> list[str]:
        return [code.strip() for code in self.keep.split(",") if code.strip()]

    def _broken(self, facts: dict[str, Any]) -> tuple[str, str] | None:
        language = facts.get("language")
        wrong = self._wanted and language and (language not in self._wanted
                                               or facts["language_probability"] < self.least)
        return ("language", f"{language} {facts['language_probability']}") if wrong else None


def identify(text: str) -> dict[str, Any]:
    """{"language": ISO 639-1 code, "language_probability": 0..1} of a text."""
    language, probability = _identifier().classify(" ".join(text[:HEAD].split()))
    return {"language": str(language), "language_probability": round(float(probability), 4)}


@cache
def _identifier() -> Any:
    """The model, read once a process: 1 s."""
    from importlib import import_module
    try:
        module = import_module("py3langid.langid")
    except ImportError:
        raise RequestError("the stage language needs a package: pip install py3langid") from None
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)
