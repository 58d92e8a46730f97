"""Prose that a model of good text finds unlikely is dropped: CCNet's filter, with a reference of your own.

Wenzek et al. 2020, https://arxiv.org/abs/1911.00359, section 3.2. The model is an interpolated modified Kneser-Ney
trigram (corpus/kneser_ney.py) over hashed words (case and punctuation do not count), made from `reference`: JSON lines
with a text, or one text file; the model is kept in memory, a few seconds for 10 MB. Without `most` every document is
only told its perplexity, a word. The paper drops the worst third of each language; give the perplexity where that
begins in your crawl.

    meristem curate crawl.warc.gz --stages "perplexity:reference=good.jsonl,most=2000" --out runs/web
"""
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.corpus import ngrams
from meristem.corpus.formats.rows import TEXTS
from meristem.corpus.kneser_ney import KneserNey
from meristem.corpus.stages.base import Batch, changed, judged, stamp

VOCABULARY = 1 << 16                    # words share hashed ids from 1 on; 0 ends a document
ORDER = 3
WORDS = 2000                            # of a document that are looked at


@dataclass(frozen=True)
class Stage:
    """`reference`: a file of good text; `most`: the largest perplexity a word that stays, 0 for no limit."""

    reference: str
    most: float = 0.0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `perplexity` among the facts of its prose; rule `perplexity`."""
        model = _model(self.reference, stamp(self.reference))
        told = changed(batch, lambda text, kind: (text, {"perplexity": of(model, text)} if kind == "prose" else {}))
        left = iter([facts for facts, rule in zip(told["facts"], told["rule"], strict=True) if not rule])
        return judged(told, lambda text, kind: self._broken(next(left)))

    def _broken(self, facts: dict[str, Any]) -> tuple[str, float] | None:
        found = facts.get("perplexity", 0.0)
        return ("perplexity", found) if 0 < self.most < found else None


def of(model: KneserNey, text: str) -> float:
    """Perplexity a word of a text's first WORDS words; 0 for a text without words."""
    ids = _ids(text)[:WORDS]
    return round(float(np.exp(-model.logprobs(ids).mean())), 1) if len(ids) else 0.0


def _ids(text: str) -> np.ndarray:
    return (ngrams.word_hashes(text) % np.uint64(VOCABULARY - 1)).astype(np.int64) + 1


@lru_cache(maxsize=2)
def _model(path: str, when: int) -> KneserNey:
    """The model of a reference; RequestError names what is wrong with it."""
    parts = [np.append(ids, 0) for text in _texts(Path(path).expanduser()) if len(ids := _ids(text))]
    if not parts:
        raise RequestError(f"perplexity:reference={path} has no words")
    return KneserNey.fit(np.concatenate(parts), VOCABULARY, 0, ORDER)


def _texts(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".jsonl":
            return [text]
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"perplexity:reference={path} cannot be read: {error}") from None
    return [next((row[key] for key in TEXTS if isinstance(row.get(key), str)), "") for row in rows
            if isinstance(row, dict)]
