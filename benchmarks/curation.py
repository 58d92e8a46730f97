"""Curation rate and peak memory of the quickstart's input, the standard library: `python -m benchmarks.curation`.

Prints one JSON object (kept in benchmarks/results/curation.json) and one table row. MB/s counts every byte of text that
was read (not binary files), on one core; the peak is the resident set of the whole process. Three rounds into fresh
folders; the median round is reported.
"""
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import record
from meristem.core import machine
from meristem.corpus import find
from meristem.corpus.curate import curate

ROUNDS = 3
UNREAD = {"binary", "too_large", "skipped_folder", "link", "not_a_file", "unreadable"}


def measure() -> dict[str, float]:
    """Curate `ROUNDS` times; seconds are the median, the rest are facts of the result."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for n in range(ROUNDS):
            start = time.perf_counter()
            corpus = curate(find.standard_library(), Path(folder) / str(n))
            seconds.append(time.perf_counter() - start)
        summary = corpus.summary
    text = sum(row["bytes"] for row in summary["splits"].values()) + sum(
        row["bytes"] for rule, row in summary["dropped"].items() if rule not in UNREAD)
    median = statistics.median(seconds)
    return {"text_mb": text / 1e6, "documents": summary["seen"]["documents"], "seconds": median,
            "fastest": min(seconds), "slowest": max(seconds), "mb_per_second": text / 1e6 / median,
            "peak_rss_mb": machine.peak_rss() / 1e6}


def main() -> None:
    """Measure and print."""
    facts = measure()
    record("curation", {name: round(value, 2) for name, value in facts.items()})
    print("| text, MB | documents | seconds | MB/s on one core | peak RSS, MB |\n| --- | --- | --- | --- | --- |")
    print(f"| {facts['text_mb']:.1f} | {facts['documents']} | {facts['seconds']:.2f} | {facts['mb_per_second']:.1f} "
          f"| {facts['peak_rss_mb']:.0f} |")


if __name__ == "__main__":
    main()
