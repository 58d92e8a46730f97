"""Do many processes take the steps of one? A small Llama (and a Mixtral) through the command line, mesh after mesh.

    python -m benchmarks.processes CORPUS          # 1, 2 and 4 gloo processes, 50 steps each, about 8 CPU minutes

For every mesh: the largest difference of any step's loss from one process's, the same for the validation loss, and the
CPU seconds. Then one run that is stopped by SIGTERM on one process and goes on with 2, 4 and 1 processes.
benchmarks/results/processes.json; docs/results.md and docs/parallel.md have the table.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import record

STEPS = 50
SHAPE = ["model.dim=64", "model.layers=4", "model.heads=4", "model.groups=4", "model.hidden=176", "train.context=128",
         "train.batch=8", "train.micro=2", f"train.steps={STEPS}", "train.warmup=10", "train.compile=false",
         "train.dtype=float32", "train.validate_every=0", "train.sample_every=0", "data.codec.vocab=512"]
MESHES = {"llama": ["", "dp=2", "tp=2", "pp=2", "cp=2", "dp=4", "dp=2,tp=2", "dp=2,pp=2", "dp=2,cp=2"],
          "mixtral": ["", "ep=2", "dp=2,ep=2"]}
TURNS = [("", 12), ("dp=2", 12), ("dp=2,tp=2", 12), ("", 0)]    # mesh, steps until it is told to stop (0: never)


def main() -> None:
    """Run all meshes and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    corpus = parser.parse_args().corpus
    rows: list[dict[str, Any]] = []
    alone: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for family, meshes in MESHES.items():
            for mesh in meshes:
                out = Path(folder) / f"{family}-{mesh or 'one'}"
                log, seconds = train(corpus, family, mesh, out)
                rows.append({"family": family, "mesh": mesh or "one process", "cpu_seconds": round(seconds, 1),
                             **compared(log, alone.setdefault(family, log))})
                print(json.dumps(rows[-1]), file=sys.stderr)
        turns = Path(folder) / "turns"
        for mesh, stop in TURNS:
            log, _ = train(corpus, "llama", mesh, turns, stop)
        manifest = json.loads((turns / "manifest.json").read_text())
        rows.append({"family": "llama", "mesh": " then ".join(f"{mesh or 'one process'}" for mesh, _ in TURNS),
                     **compared(log, alone["llama"]), "recorded": [change["mesh"] for change in manifest["drift"]]})
    record("processes", {"steps": STEPS, "rows": rows})


def train(corpus: Path, family: str, mesh: str, out: Path, stop: int = 0) -> tuple[list[dict[str, Any]], float]:
    """The log of a run under torchrun, and the CPU seconds of its processes."""
    count = 1
    for word in filter(None, mesh.split(",")):
        count *= int(word.partition("=")[2])
    sized = [word for word in SHAPE if family == "llama" or "hidden" not in word] + \
        (["model.experts=4", "model.top_k=2", "model.hidden=64"] if family == "mixtral" else [])
    start = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *start, "-m", "meristem", "pretrain", family, f"data.corpus={corpus}", *sized,
               f"train.mesh={mesh}", "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({"MERISTEM_FAULT": f"step.end:{stop}:term"} if stop else {})}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and not stop:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return lines, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compared(log: list[dict[str, Any]], alone: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest differences from the log of one process."""
    assert [line["step"] for line in log] == list(range(1, STEPS + 1)), "a step is missing or there twice"
    gap = max(abs(line["loss"] - one["loss"]) for line, one in zip(log, alone, strict=True))
    return {"worst_loss_gap": gap, "validation_gap": abs(log[-1]["validation"] - alone[-1]["validation"]),
            "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"]}


if __name__ == "__main__":
    main()
