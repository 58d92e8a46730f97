"""What every benchmark shares: workers in fresh processes, the machine beside each result, one JSON file each."""
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent.parent / ".bench"


def worker(module: str, *words: str, python: str = sys.executable, warm: str = "") -> dict[str, Any]:
    """Run `python -m module --worker words...` and return the JSON object on its last line of output.

    The compiler's cache starts empty unless `warm` names a folder that an earlier worker filled.
    """
    with tempfile.TemporaryDirectory() as cold:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": warm or cold, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([python, "-W", "ignore", "-m", module, "--worker", *words], env=env,
                              stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} --worker {' '.join(words)} failed with status {done.returncode}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(result), file=sys.stderr)
    return result


def record(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json with date, commit and machine, and print it."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    full = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "commit": git.stdout.strip(),
            "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(), **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(full, indent=2) + "\n")
    print(json.dumps(full))


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, a JSON value, from the file into which an earlier call has put it."""
    if not path.is_file():
        text = json.dumps(make())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return json.loads(path.read_text())


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_bf16(n: int = 1024, samples: int = 9) -> float:
    """FLOP/s of an n x n x n bf16 product, the best median of three groups: what shares of peak are shares of."""
    import torch
    x = torch.randn(n, n, dtype=torch.bfloat16)
    groups = []
    for _ in range(3):
        seconds = []
        for _ in range(samples):
            start = time.perf_counter()
            for _ in range(4):
                x @ x
            seconds.append((time.perf_counter() - start) / 4)
        groups.append(sorted(seconds)[samples // 2])
    return 2 * n**3 / min(groups)


EAGER, BOTH = ("force_eager",), ("force_eager", "default")     # stances of torch.compiler, for `compared`


def compared(ours: Callable[[], object], theirs: Callable[[], object], rounds: int,
             stances: Sequence[str] = BOTH) -> dict[str, Any]:
    """Seconds of two sides, each at its faster stance (eager, or with what it compiled): medians of rounds in turn."""
    import torch
    calls = {(side, stance): call for side, call in (("ours", ours), ("theirs", theirs)) for stance in stances}
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for n in range(rounds + 1):                                # the first round warms up and compiles
        for key in sorted(calls, reverse=bool(n % 2)):
            with torch.compiler.set_stance(key[1]):
                start = time.perf_counter()
                calls[key]()
                taken[key].append(time.perf_counter() - start)
    middle = {key: statistics.median(some[1:]) for key, some in taken.items()}
    best = {side: min(seconds for key, seconds in middle.items() if key[0] == side) for side in ("ours", "theirs")}
    return {**best, "ratio": best["theirs"] / best["ours"],
            "each": {f"{side} {stance}": seconds for (side, stance), seconds in middle.items()}}
