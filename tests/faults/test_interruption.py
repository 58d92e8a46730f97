"""Killed, terminated, out of disk: real signals and real disks, at every named point (docs/reliability.md)."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.starter import started

HARNESS = Path(__file__).parent / "harness.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HARNESS.parents[2])}


def cases(what: str, folder: Path) -> list[dict]:
    out = folder / "cases.jsonl"
    assert started("tests.faults.harness:main", what, str(folder), out=out) == [0]
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    return {(c["at"], c["what"]): c for c in cases("saves", tmp_path_factory.mktemp("saves"))}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return {(c["at"], c.get("what", "")): c for c in cases("steps", tmp_path_factory.mktemp("steps"))}


@pytest.mark.parametrize("what", ["kill", "term", "error"])
@pytest.mark.parametrize("at", ["ckpt.begin:1", "ckpt.tensors:1", "ckpt.tensors:2", "ckpt.written:1",
                                "ckpt.manifest:1", "ckpt.renamed:1",
                                "ckpt.prune:1"])
def test_a_fault_at_any_point_of_a_save_loses_no_good_checkpoint(saves, at, what):
    case = saves[at, what]
    committed = at in ("ckpt.renamed:1", "ckpt.prune:1")
    assert case["code"] == {"kill": -9, "term": -15, "error": 0}[what]
    assert case["found"]["step"] == (3 if committed else 2) and case["found"]["right"]
    for seen in (case["found"], case["next"]):
        assert seen["warnings"] == [] and not [n for n in seen["names"] if n.startswith((".tmp", "bad"))]
    # two and the lock
    assert case["next"]["step"] == 4 and case["next"]["right"] and len(case["next"]["names"]) == 3
    if what == "error" and not committed:
        assert "step 3 could not be written" in case["warnings"][0]


@pytest.mark.parametrize("what", ["kill", "term"])
@pytest.mark.parametrize("at", ["step.begin:1", "step.begin:7", "step.backward:5", "step.end:6", "ckpt.tensors:5",
                                "ckpt.manifest:6",
                                "ckpt.renamed:4", "ckpt.prune:3"])
def test_a_run_killed_anywhere_ends_with_the_very_weights_of_an_unbroken_one(steps, at, what):
    case, whole = steps[at, what], steps["", ""]["whole"]
    assert case["again"]["hash"] == whole["hash"]
    if what == "kill":
        assert case["code"] == -9
    # SIGTERM: the step is finished, saved, and nothing is repeated
    else:
        assert case["code"] == 0 and case["first"]["signal"] == 15 and case["again"]["begun"] == case["first"]["step"]
    assert at == "step.begin:1" or case["again"]["begun"] > 0, "the run started over instead of resuming"


def test_every_optimizer_goes_on_with_the_same_bits_after_kill_9(tmp_path):
    found = {(c["kind"], c["at"]): c for c in cases("optimizers", tmp_path)}
    for kind in ("muon", "adafactor", "schedule_free"):
        case = found[kind, "ckpt.manifest:6"]
        assert case["code"] == -9 and case["again"]["begun"] > 0, kind
        assert case["again"]["hash"] == found[kind, ""]["whole"]["hash"], kind
    assert len({found[kind, ""]["whole"]["hash"] for kind, _ in found}) == 3


def test_a_real_full_disk_keeps_the_old_checkpoints_warns_and_stops_after_three(tmp_path):
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    inside = ("unshare", "-m", "sh", "-c", script, str(tmp_path))
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs a privilege this process has not")
    done = subprocess.run([*inside, sys.executable, str(HARNESS), "full", str(tmp_path)], env=ENV, text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    stopped, end = map(json.loads, done.stdout.splitlines())
    assert end["saves"] == [1, 2, 3, 4, 5, 6, 7] and stopped["stopped"] == 8 and stopped["status"] == 1
    assert len(end["warnings"]) == 4 and all("No space left" in w for w in end["warnings"])     # 3, 4, then 6 and 7
    assert "3 checkpoints in a row" in stopped["error"] and "intact" in stopped["error"]
    assert end["found"]["step"] == 5 and end["found"]["right"]
    assert end["found"]["names"] == ["lock", "step-000002", "step-000005"]


def test_a_limit_on_the_size_of_files_is_a_warning_too(saves):
    end = saves["limit", ""]
    assert len(end["warnings"]) == 2 and "File too large" in end["warnings"][0]
    assert end["found"]["step"] == 2 and end["found"]["right"] and end["found"]["names"] == ["lock", "step-000001",
                                                                                             "step-000002"]
