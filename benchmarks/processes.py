"""Do many processes take the steps of one? Small models, mesh after mesh, 50 steps in fp32, gloo.

    python -m benchmarks.processes 2               # two processes beside one; a few CPU minutes
    python -m benchmarks.processes 4

For every mesh: the largest difference of any step's loss from one process's, and of its gradient norm (relative where
above 1). The runs are those of tests/train/test_many.py, longer. docs/results.md has the table.
"""
import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import record
from tests.train.processes import spawned
from tests.train.test_many import TWO, name, only_runs, run

STEPS = 50
FOUR: list[tuple[str, str, dict]] = [
    ("dp=4", "llama", {}), ("dp=2,tp=2", "llama", {}), ("dp=2,pp=2", "llama", {"micro": 4})]
SAME = ("shard", "recompute", "steps")  # fields that one process needs not know


def main() -> None:
    """Run the meshes of so many processes and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, choices=(2, 4))
    count = parser.parse_args().count
    cases = TWO if count == 2 else FOUR
    rows: list[dict[str, Any]] = []
    longer = [(mesh, family, {**train, "steps": STEPS}) for mesh, family, train in cases]
    with tempfile.TemporaryDirectory() as folder:
        seen = spawned(count, only_runs, Path(folder), longer)
    for i, case in enumerate(cases):
        _, family, train = case
        alone = run("", family, steps=STEPS, **{k: v for k, v in train.items() if k not in SAME})
        assert all(rank[i] == seen[0][i] for rank in seen), f"{name(case)}: processes disagree"
        gaps = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(seen[0][i], alone, strict=True)]
        losses = [abs(a - b) for a, b in zip(seen[0][i][::2], alone[::2], strict=True)]
        rows.append({"mesh": name(case), "loss_gap": max(losses), "norm_gap": max(gaps[1::2]),
                     "first_loss": alone[0], "last_loss": alone[-2]})
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    record(f"processes_{count}", {"steps": STEPS, "cpu_seconds": round(seconds), "rows": rows})


if __name__ == "__main__":
    main()
