"""Goodput under faults: a run that is killed every so many seconds, with `kill -9`, until it has finished.

    python -m benchmarks.goodput CORPUS [--every 30] [--minutes 10] [RECIPE] [FIELD=VALUE ...]

Trains the recipe (default: the time-to-loss shape, characters) through the real command line, kills it every `--every`
seconds after its launch and starts it again; at the end the run's own account (result.json) says which share of the
wall time since the first launch trained it, and where the rest went. benchmarks/results/goodput.json.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import record

DEFAULT = ["shakespeare", "train.steps=1500", "train.save_seconds=5"]


def main() -> None:
    """Kill, start again, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("words", nargs="*", help="a recipe and its fields")
    parser.add_argument("--every", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, default=10.0, help="no more kills after so long")
    asked = parser.parse_args()
    kills, begun = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        command = [sys.executable, "-m", "meristem", "pretrain", *(asked.words or DEFAULT),
                   f"data.corpus={asked.corpus}", "--out", str(folder)]
        while True:
            process = subprocess.Popen(command)
            late = time.monotonic() - begun > 60 * asked.minutes
            try:
                if process.wait(None if late else asked.every):
                    raise SystemExit("the run ended by itself; see above")
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        account = json.loads((folder / "result.json").read_text())["goodput"]
    record("goodput", {"words": asked.words or DEFAULT, "every_seconds": asked.every, "kills": kills, **account})


if __name__ == "__main__":
    main()
