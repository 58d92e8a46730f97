"""What mixture weights do, and what changing them costs: `python -m benchmarks.mixture --out RUNS`.

The standard library as a corpus of code and prose (its documentation strings are code; `pydoc_data` and text files are
prose). One small network at three shares of code, three seeds each, equal steps: bits per byte of held-out code and
prose (row E7: more code lowers the loss of code and raises that of prose), the largest distance of the achieved
fractions from the request over every step of every log, and the weights that a law fitted to these runs would choose.
Then the seconds from other weights to their first batch, shards and index being there. Runs that are finished are not
repeated. `--tiny` trains 3 steps of one seed.
"""
import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.common import record
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.corpus import find
from meristem.corpus.curate import curate
from meristem.data import mixing_law
from meristem.train import hooks
from meristem.train.run import pretrain

SHARES, SEEDS, STEPS = (0.2, 0.5, 0.8), (0, 1, 2), 200
T95 = 4.303                             # Student's t for two degrees of freedom


def run_of(corpus: Path, code: float, seed: int, steps: int) -> Run:
    """One small network at a share of code."""
    mixture = Part("fixed", {"by": "kind", "weights": {"code": code, "prose": 1 - code}})
    return Run("mixture", Part("llama", {"dim": 96, "layers": 3, "heads": 4, "hidden": 256}), Part("next_token"),
               Data(str(corpus), Part("bpe", {"vocab": 2048}), mixture=mixture),
               Train(steps=steps, batch=16, context=128, lr=4e-3, warmup=10, compile=False), seed=seed)


def spread(values: list[float]) -> list[float]:
    """Mean and the half width of its interval."""
    half = T95 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) == 3 else 0.0
    return [round(statistics.mean(values), 4), round(half, 4)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    began = time.process_time()
    library = find.standard_library()
    corpus = curate(library, args.out / "corpus", limit_bytes=8_000_000).folder
    facts: dict[str, Any] = {"steps": STEPS}
    off, folders, last = 0.0, [], {}
    for code in SHARES:
        found: dict[str, list[float]] = {"code": [], "prose": []}
        for seed in SEEDS[: 1 if args.tiny else None]:
            folder = pretrain(run_of(corpus, code, seed, 3 if args.tiny else STEPS), args.out / f"{code}.{seed}")
            lines = hooks.read_log(folder / "log.jsonl")
            asked = {"code": code, "prose": 1 - code}
            off = max(off, *(abs(count / line["tokens"] - asked[name]) for line in lines
                             for name, count in line["source_tokens"].items()))
            for name, bits in lines[-1]["bits_per_byte"].items():
                found[name].append(bits)
            folders.append(folder)
        last[code] = found
        facts[f"code {code}"] = {name: spread(some) for name, some in found.items()}
    gains = {name: [b - a for a, b in zip(last[SHARES[0]][name], last[SHARES[-1]][name], strict=True)]
             for name in ("code", "prose")}
    facts["from the least to the most code"] = {name: spread(some) for name, some in gains.items()}
    facts["furthest fraction"] = off
    facts["learned"] = {name: round(w, 3) for name, w in mixing_law.best(folders).items()}
    facts["seconds to other weights"] = round(changed(corpus), 3)
    facts["cpu_minutes"] = round((time.process_time() - began) / 60, 2)
    print(json.dumps(facts)) if args.tiny else record("mixture", facts)


def changed(corpus: Path) -> float:
    """Seconds from new weights to their first batch, with shards that are open."""
    from meristem.corpus.store import Corpus
    from meristem.data.shards import tokenise
    from meristem.train import mixed
    from meristem.train.run import codec_of
    run, opened = run_of(corpus, 0.37, 0, 1), Corpus.open(corpus)
    shards = tokenise(opened, codec_of(run.data.codec, opened))
    began = time.perf_counter()
    mixed.source(run, opened, shards, "train")(0)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
