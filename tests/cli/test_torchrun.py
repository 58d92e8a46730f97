"""meristem under torchrun: one answer, one folder, the files of one process; and on from there with other meshes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TURNS = [("", 4), ("dp=2", 4), ("dp=2,tp=2", 4), ("", 0)]      # mesh, after how many steps a signal comes (0: never)
EDITS = ["train.steps=15", "model.layers=2", "model.groups=2", "model.heads=4"]


def meristem(*words: str, count: int = 1, fault: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MERISTEM_FAULT": fault}
    return subprocess.run([sys.executable, *start, "-m", "meristem", *words], env=env, capture_output=True, text=True)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 16))
    return [line["loss"] for line in lines]


@pytest.mark.slow
def test_one_two_four_and_one_process_make_one_run_and_one_model_folder(corpus, tiny, tmp_path):
    words = ["pretrain", "llama", f"data.corpus={corpus}", *tiny, *EDITS, "--json"]
    alone = meristem(*words, "--out", str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    for mesh, stop in TURNS:
        count = 2 ** len(list(filter(None, mesh.split(","))))
        done = meristem(*words, f"train.mesh={mesh}", "--out", str(tmp_path / "turns"), count=count,
                        fault=f"step.end:{stop}:term" if stop else "")
        said = [line for line in done.stderr.splitlines() if line.startswith("meristem: ")]
        assert (len(said), "saved" in said[0]) == (1, True) if stop else done.returncode == 0, done.stderr
    assert losses(tmp_path / "turns") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    changes = [change["mesh"] for change in json.loads((tmp_path / "turns" / "manifest.json").read_text())["drift"]]
    assert changes == [["dp=1", "dp=2"], ["dp=2", "dp=2,tp=2"], ["dp=2,tp=2", "dp=1"]]
    assert len(done.stdout.splitlines()) == 1 and json.loads(done.stdout)["step"] == 15


@pytest.mark.slow
def test_a_run_of_two_leaves_what_a_run_of_one_leaves(corpus, tiny, tmp_path):
    words = ["pretrain", "llama", f"data.corpus={corpus}", *tiny, *EDITS, "train.sample_every=5", "--json"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert meristem(*words, "--out", str(one)).returncode == 0
    done = meristem(*words, "train.mesh=tp=2", "--out", str(two), count=2)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and json.loads(done.stdout)["step"] == 15

    def files(folder: Path) -> set[str]:
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "heartbeats" not in p.parts}
    assert files(one) == files(two)
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert list(a) == list(b) and all((a[name] - b[name]).abs().max() < 1e-4 for name in a)
    again = meristem("replay", str(two), "--step", "12", count=2)
    assert again.returncode == 0, again.stderr
    refused = meristem("replay", str(two), "--step", "12")
    assert refused.returncode == 2 and "for 2 processes and 1 were started" in refused.stderr


@pytest.mark.slow
def test_a_wrong_request_is_said_once(corpus, tiny, tmp_path):
    words = ["pretrain", "llama", f"data.corpus={corpus}", *tiny, "--out", str(tmp_path / "run")]
    for edits, says in ((["train.mesh=dp=2", "train.batch=5"], "train.batch=5 rows do not divide by the 2 processes"),
                        (["train.mesh=dp=2", "train.context=100000"], "set train.context"),
                        ([], "set train.mesh=dp=2")):
        done = meristem(*words, *edits, count=2)
        assert done.returncode != 0 and done.stderr.count("meristem: ") == 1 and says in done.stderr, done.stderr
