"""Runs killed at random, again and again, for four objectives; each must end in the bits of an unbroken one.

    python -m benchmarks.soak --minutes 30 --kills 50 [--objectives next_token masked] [--seed 0] [--compile]

For each objective the real command line trains once unbroken and once under `kill -9`: a launch is killed after a
random number of steps or, each fifth time, at a random moment of its start, until `--kills` are done or `--minutes` are
over (shared by what is left to do); then it may finish. Equal must be: the hash of the model, every file of the last
checkpoint (weights, moments, what the guard remembers) and every logged loss, gradient norm and learning rate. The
table is benchmarks/results/soak.json, the status 1 if anything differs. Networks are tiny, with dropout where the
family has it, and save as often as they can: what is tested is where a run is cut, not how long it is.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import record

STEPS = 400
TRAIN = ["train.batch=8", "train.context=64", "train.micro=4", "train.warmup=10", "train.save_seconds=0.05",
         "train.validate_every=100"]
BPE = "data.codec.vocab=600"
OBJECTIVES = {
    "next_token": ["llama", "model.dim=32", "model.layers=2", "model.heads=2", "model.groups=2", "model.hidden=64", BPE,
                   "train.optimizer=muon"],
    "masked": ["roberta", "model.dim=32", "model.layers=2", "model.heads=2", "model.dropout=0.1", BPE],
    "span_corruption": ["t5", "model.dim=32", "model.layers=2", "model.heads=2", "model.hidden=64", "model.dropout=0.1",
                        BPE],
    "distillation": ["distil", "model.dim=32", "model.layers=1", "model.heads=2", "model.groups=2", "model.hidden=64",
                     BPE, "objective.teacher={home}/next_token/whole"]}
COMPARED = ("loss", "grad_norm", "lr", "targets")
EARLY = 5                               # every so many launches one is killed before its first step


def launch(folder: Path, words: list[str], out: Any) -> "subprocess.Popen[bytes]":
    """The real command."""
    command = [sys.executable, "-W", "ignore", "-m", "meristem", "pretrain", *words, "--out", str(folder)]
    return subprocess.Popen(command, stdout=out, stderr=out)


def steps_of(folder: Path) -> int:
    """How far the log is; kill -9 may leave a torn line, which does not count."""
    try:
        lines = (folder / "log.jsonl").read_bytes().splitlines()
        return next((int(json.loads(line)["step"]) for line in reversed(lines) if line.endswith(b"}")), 0)
    except (OSError, ValueError, KeyError):
        return 0


def whole(folder: Path, words: list[str], out: Any) -> float:
    """Train without any fault; seconds until the first step."""
    begun = time.monotonic()
    process, first = launch(folder, words, out), 0.0
    while process.poll() is None:
        if not first and steps_of(folder):
            first = time.monotonic() - begun
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"the unbroken run ended with status {process.returncode}; see its output")
    return first


def killed(folder: Path, words: list[str], out: Any, kills: int, start: float, end: float,
           rng: random.Random) -> dict[str, int]:
    """Train under kill -9 until it has finished: how often it was killed, and how often before a first step."""
    done = {"kills": 0, "early": 0, "launches": 0}
    while True:
        (folder / "failures.jsonl").unlink(missing_ok=True)    # these deaths are ours, three in one step are no poison
        process, begun, at = launch(folder, words, out), time.monotonic(), steps_of(folder)
        done["launches"] += 1
        spare = done["kills"] >= kills or time.monotonic() > end
        early, life = rng.random() < 1 / EARLY, rng.uniform(0, start)
        goal = at + rng.uniform(0, 1.6 * (STEPS - at) / (kills - done["kills"] + 1))
        while process.poll() is None:
            due = time.monotonic() - begun > life if early else _moved(folder, at, goal)
            if due and not spare:
                break
            time.sleep(0.002)
        if process.poll() is None:
            time.sleep(rng.uniform(0, 0.02))                   # not only just after a step was logged
            process.kill()
            process.wait()
            done["kills"] += 1
            done["early"] += early
        elif process.returncode == 0:
            return done
        else:
            raise SystemExit(f"launch {done['launches']} ended by itself with status {process.returncode}")


def _moved(folder: Path, at: int, goal: float) -> bool:
    """Whether this launch has logged a step of its own and the goal is reached."""
    now = steps_of(folder)
    return now != at and now >= goal


def differences(one: Path, two: Path) -> list[str]:
    """What of two finished runs is not equal."""
    def read(path: Path) -> Any:
        return json.loads(path.read_text())

    def losses(folder: Path) -> list[list[Any]]:
        lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
        return [[line["step"], *(line[key] for key in COMPARED)] for line in lines]

    def files(folder: Path) -> dict[str, Any]:
        return read(folder / "checkpoints" / f"step-{STEPS:06d}" / "MANIFEST.json")["files"]
    found = ["model"] if read(one / "result.json")["model"] != read(two / "result.json")["model"] else []
    a, b = files(one), files(two)
    found += [name for name in sorted({*a, *b}) if a.get(name) != b.get(name) and name != "state.json"]
    guard = [read(f / "checkpoints" / f"step-{STEPS:06d}" / "state.json")["meta"]["guard"] for f in (one, two)]
    found += ["guard"] if guard[0] != guard[1] else []
    return found + (["log"] if losses(one) != losses(two) else [])


def main() -> None:
    """Soak each objective and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="*", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--compile", action="store_true", help="compiled regions: each launch then starts slower")
    asked = parser.parse_args()
    wanted = [name for name in OBJECTIVES if name in asked.objectives]
    end, rows = time.monotonic() + 60 * asked.minutes, []
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        subprocess.run([sys.executable, "-m", "meristem", "curate", *(str(Path(os.__file__).parent / name) for name in
                        ("email", "http", "json", "logging")), "--out", str(home / "corpus")], check=True)
        names = wanted if "next_token" in wanted or "distillation" not in wanted else ["next_token", *wanted]
        for i, name in enumerate(names):
            words = [word.format(home=home) for word in OBJECTIVES[name]] + TRAIN + [
                f"data.corpus={home / 'corpus'}", f"train.steps={STEPS}", f"train.compile={asked.compile}"]
            begun = time.monotonic()
            with open(home / f"{name}.out", "wb") as out:
                start = whole(home / name / "whole", words, out)
                share = max(0.0, end - time.monotonic()) / (len(names) - i)
                done = killed(home / name / "killed", words, out, asked.kills, start, time.monotonic() + share,
                              random.Random(f"{asked.seed} {name}"))
            bad = differences(home / name / "whole", home / name / "killed")
            account = json.loads((home / name / "killed" / "result.json").read_text())["goodput"]
            rows.append({"objective": name, **done, "equal": not bad, "differences": bad,
                         "goodput": round(account["share"], 3), "seconds": round(time.monotonic() - begun, 1)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    record("soak", {"steps": STEPS, "seed": asked.seed, "compile": asked.compile, "rows": rows})
    raise SystemExit(any(row["differences"] for row in rows))


if __name__ == "__main__":
    main()
