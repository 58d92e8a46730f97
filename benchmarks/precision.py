"""bf16 against fp32: the same run twice, and how far its final validation losses lie apart (FEATURES G2).

    python -m benchmarks.precision CORPUS [--seeds 0 1 2] [--steps 300]

A Llama of 0.9 M parameters (Muon, the warm-up and decay of the recipes) on the tokens of CORPUS, in the two types from
the same weights and batches; a seed is a pair. The difference of the pairs' validation losses has a 95 % interval of
Student's t. benchmarks/results/precision.json. Goal: within 0.01 nats.
"""
import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import record
from meristem.core.config import Part
from meristem.core.files import read_json
from meristem.core.run import Data, Run, Train
from meristem.train.run import pretrain

SHAPE = {"dim": 128, "layers": 3, "heads": 4, "groups": 4, "hidden": 352, "qk_norm": True}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}                # quantiles of Student's t, by pairs


def main() -> None:
    """Each seed in both types, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    rows, begun = [], time.process_time()
    with tempfile.TemporaryDirectory() as place:
        for seed in asked.seeds:
            found = {}
            for dtype in ("float32", "bfloat16"):
                train = Train(steps=asked.steps, batch=16, context=128, optimizer="muon", lr=2e-2, warmup=20,
                              schedule="wsd", validate_every=asked.steps, compile=False, dtype=dtype, save_seconds=1e9)
                run = Run("precision", Part("llama", SHAPE), seed=seed, train=train,
                          data=Data(os.path.abspath(asked.corpus), Part("bpe", {"vocab": 2048})))
                out = pretrain(run, Path(place) / f"{dtype}-{seed}")
                found[dtype] = float(read_json(out / "result.json")["validation"])
            rows.append({"seed": seed, **found, "difference": found["bfloat16"] - found["float32"]})
            print(rows[-1], flush=True)
    off = [row["difference"] for row in rows]
    half = T95[len(off)] * statistics.stdev(off) / len(off) ** 0.5
    record("precision", {"steps": asked.steps, "rows": rows, "difference": statistics.mean(off),
                         "interval": [statistics.mean(off) - half, statistics.mean(off) + half],
                         "cpu_minutes": (time.process_time() - begun) / 60})


if __name__ == "__main__":
    main()
