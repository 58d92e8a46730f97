"""Milliseconds from a text to its verbatim spans in the training documents.

    python -m benchmarks.trace runs/quickstart/base

Texts are 300 characters from the middle of each of 200 held-out documents, as a generated answer might be; the index is
built (and timed) first when it is not there. Each answer has the spans, their documents and the steps that saw them.
"""
import argparse
import statistics
import time
from pathlib import Path

from benchmarks.common import record
from meristem.govern.trace import Tracer

TEXTS, CHARACTERS = 200, 300


def main() -> None:
    """Build, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    started = time.perf_counter()
    tracer = Tracer(given.run)
    opened = time.perf_counter() - started
    texts = []
    for document in tracer.index.corpus.documents("validation"):
        middle = max(0, len(document.text) // 2 - CHARACTERS // 2)
        texts.append(document.text[middle: middle + CHARACTERS])
        if len(texts) == TEXTS:
            break
    tracer(texts[0])
    took, covered, spans = [], [], 0
    for text in texts:
        started = time.perf_counter()
        found = tracer(text)
        took.append(1000 * (time.perf_counter() - started))
        covered.append(found.covered)
        spans += len(found.spans)
    took.sort()
    record("trace", {"megabytes": len(tracer.index.text) / 1e6, "open_seconds": round(opened, 2), "texts": len(texts),
                     "median_ms": round(statistics.median(took), 1), "p99_ms": round(took[int(0.99 * len(took))], 1),
                     "spans": spans, "covered": round(statistics.mean(covered), 3)})


if __name__ == "__main__":
    main()
