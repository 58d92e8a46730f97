"""What curation costs as the corpus doubles twice, and beside datatrove: `python -m benchmarks.curation_scale`.

Prose of this machine (docstrings and documentation of the standard library and of installed packages) as JSON lines,
with an edited copy of every tenth document. Ours: `--stages "gopher c4 fineweb"`, then near duplicates, on one core.
Theirs (`--peer PYTHON`, an environment with datatrove, spacy, nltk and xxhash<4): the same filters, MinHash with 14
bands of 8, local executor, one task. `--sizes` are 50, 100 and 200 MB, which take ten minutes to write. Fresh
processes; CPU seconds of the process and its children, peak of the resident set. The exponent is the slope of log
seconds on log bytes, start-up taken away. `--tiny` takes 1 MB.
"""
import argparse
import ast
import json
import math
import os
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import record

SIZES = (50, 100, 200)                  # MB
SUFFIXES = (".py", ".md", ".rst", ".txt")


def texts() -> Iterator[str]:
    """Prose of this machine, each once, then again with the words of each line in another order, without end."""
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    paths = sorted({p for root in roots for suffix in SUFFIXES for p in root.rglob(f"*{suffix}")})
    random.Random(0).shuffle(paths)
    for round_ in range(1000):
        for number, path in enumerate(paths):
            text = prose(path)
            if len(text) > 500:
                yield text if round_ == 0 else "\n".join(map(shuffled, text.split("\n")))
                if number % 10 == 0:
                    yield text.replace("the ", "that ", 3)


def prose(path: Path) -> str:
    """The docstrings of a Python file, or a text as it is; at most 100,000 characters."""
    text = path.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
    if path.suffix != ".py":
        return text[:100_000]
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    return "\n\n".join(filter(None, (ast.get_docstring(n) for n in nodes if isinstance(n, kinds))))[:100_000]


def shuffled(line: str) -> str:
    """A line with its words in another order, but for the last one: what ends sentences stays where it is."""
    *words, last = line.split(" ")
    random.Random(line).shuffle(words)
    return " ".join([*words, last])


def write(paths: dict[Path, float]) -> dict[Path, int]:
    """JSON lines of at least those megabytes, all from one pass; returns each one's bytes of text."""
    sizes = dict.fromkeys(paths, 0)
    with ExitStack() as stack:
        files = {path: stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths}
        for number, text in enumerate(texts()):
            line = json.dumps({"text": text, "id": str(number), "path": f"{number}.txt"}) + "\n"
            for path in [path for path, megabytes in paths.items() if sizes[path] <= megabytes * 1e6]:
                files[path].write(line)
                sizes[path] += len(text.encode())
            if all(sizes[path] > megabytes * 1e6 for path, megabytes in paths.items()):
                break
    return sizes


def ours(path: Path, out: Path) -> None:
    """Curate in this process."""
    from meristem.corpus.curate import curate
    curate([path], out, stages=("gopher", "c4", "fineweb"), workers=1)


THEIRS = """
import sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (C4QualityFilter, FineWebQualityFilter, GopherQualityFilter,
                                        GopherRepetitionFilter)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
path, out = Path(sys.argv[1]), sys.argv[2]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
def run(*steps, tasks=1):
    LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, workers=1, logging_dir=None, skip_completed=False).run()
run(JsonlReader(str(path.parent), glob_pattern=path.name), GopherRepetitionFilter(), GopherQualityFilter(),
    C4QualityFilter(), FineWebQualityFilter(), JsonlWriter(out + "/filtered", compression=None))
run(JsonlReader(out + "/filtered"), MinhashDedupSignature(out + "/signatures", config=config))
run(MinhashDedupBuckets(out + "/signatures", out + "/buckets", config=config), tasks=14)
run(MinhashDedupCluster(out + "/buckets", out + "/remove", config=config))
run(JsonlReader(out + "/filtered"), MinhashDedupFilter(out + "/remove"), JsonlWriter(out + "/kept", compression=None))
"""


def timed(command: list[str]) -> dict[str, float]:
    """CPU seconds and peak of a command and what it starts."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": home},
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, said = child.communicate()
        wall = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed: {said.decode()[-1500:]}")
    return {"wall": round(wall, 2)}


def measured(command: list[str]) -> dict[str, float]:
    """As `timed`, in a process of its own, so that peak and CPU are this command's alone."""
    inner = [sys.executable, "-m", "benchmarks.curation_scale", "--time", *command]
    done = subprocess.run(inner, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--time"]:
        facts = timed(sys.argv[2:])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(json.dumps({**facts, "cpu": round(used.ru_utime + used.ru_stime, 2), "peak_mb": used.ru_maxrss / 1024}))
        return
    if sys.argv[1:2] == ["--ours"]:
        ours(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", default="")
    parser.add_argument("--sizes", nargs=3, type=int, default=list(SIZES), help="megabytes, each twice the one before")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = {folder / f"{megabytes}.jsonl": float(megabytes) for megabytes in ([1] if args.tiny else args.sizes)}
        sizes = write(wanted)
        for path, megabytes in wanted.items():
            size = sizes[path]
            row = {"megabytes": round(size / 1e6, 1)}
            commands = {"ours": [sys.executable, "-m", "benchmarks.curation_scale", "--ours", str(path), f"{path}.out"]}
            if args.peer and megabytes <= args.sizes[0]:
                commands["datatrove"] = [args.peer, "-c", THEIRS, str(path), f"{path}.dt"]
            for who, command in commands.items():
                facts = measured(command)
                row |= {f"{who}_{key}": value for key, value in facts.items()}
                row[f"{who}_mb_per_cpu_second"] = round(size / 1e6 / facts["cpu"], 2)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    whole: dict[str, Any] = {"rows": rows}
    if len(rows) == 3:
        steps = [rows[n + 1]["ours_cpu"] - rows[n]["ours_cpu"] for n in range(2)]
        whole["exponent"] = round(math.log2(steps[1] / steps[0]), 3)
    print(json.dumps(whole)) if args.tiny else record("curation_scale", whole)


if __name__ == "__main__":
    main()
