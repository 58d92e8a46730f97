"""What the machine is, measured once and kept."""
import dataclasses
import json
import os

import pytest

from meristem.core import machine
from meristem.core.machine import Machine

FAST = Machine(matmul_bf16=9e11, matmul_fp32=2e11, read_bandwidth=5e10, cores=2, memory=1 << 34, compiler=True)


def test_bf16_is_used_only_where_it_is_the_faster():
    assert FAST.best_dtype == "bfloat16" and FAST.peak == 9e11
    slow = dataclasses.replace(FAST, matmul_bf16=1e9)
    assert slow.best_dtype == "float32" and slow.peak == 2e11


def test_a_measurement_is_plausible_and_leaves_the_thread_count_alone(monkeypatch):
    import torch
    monkeypatch.setattr(machine, "SIZE", 128)
    monkeypatch.setattr(machine, "SWEEP", 1 << 22)
    monkeypatch.setattr(machine, "WINDOW", 0.02)
    before = torch.get_num_threads()
    found = machine.measure()
    assert torch.get_num_threads() == before
    assert found.matmul_fp32 > 1e8 and found.matmul_bf16 > 1e7 and 1e8 < found.read_bandwidth < 1e13
    assert found.cores == os.cpu_count() and found.memory > 1 << 28


def test_a_rate_is_that_of_the_fastest_tenth_so_a_busy_neighbour_cannot_lower_it(monkeypatch):
    clock, took = [0.0], iter([0.5] * 12 + [0.01] * 8 + [0.5] * 100)
    monkeypatch.setattr(machine, "WINDOW", 20.0)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])

    def work():
        clock[0] += next(took)
    assert machine._seconds(work) == pytest.approx(0.01)


def test_it_is_measured_once_and_a_torn_cache_is_measured_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "measure", lambda: calls.append(1) or FAST)
    monkeypatch.setattr(machine, "has_compiler", lambda: True)
    assert machine.measured() == machine.measured() == FAST and len(calls) == 1
    path, = tmp_path.glob("meristem/machine-*.json")
    for damage in ("", "{", '{"cores": 1}', "[]"):
        path.write_text(damage)
        assert machine.measured() == FAST
    assert len(calls) == 5 and json.loads(path.read_text())["cores"] == 2
    machine.measured(fresh=True)
    assert len(calls) == 6


def test_a_cache_folder_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "meristem").touch()                            # a file where the folder should be
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "measure", lambda: FAST)
    assert machine.measured() == FAST


def test_a_compiler_that_came_or_went_since_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "measure", lambda: FAST)
    machine.measured()
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    assert machine.measured() == dataclasses.replace(FAST, compiler=False)


@pytest.mark.parametrize(("value", "count"), [("3", 3), ("1", 1)])
def test_threads_follow_the_usual_variable(monkeypatch, value, count):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.threads() == count


@pytest.mark.parametrize("value", ["", "0", "all"])
def test_without_a_number_the_cores_count(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert 1 <= machine.threads() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("text", "cores"),
                         [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 1 << 20), ("", 1 << 20)])
def test_a_containers_quota_is_read(monkeypatch, text, cores):
    monkeypatch.setattr(machine, "_read", lambda path: text)
    assert machine._quota() == cores


def test_a_compiler_needs_pythons_header_too(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/" + name)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert machine.has_compiler()
    (tmp_path / "Python.h").unlink()
    assert not machine.has_compiler()


def test_identity_is_json_and_names_the_machine():
    facts = machine.identity()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"] and facts["torch"].startswith("2.") and facts["memory"] > 1 << 28


def test_peak_memory_grows_with_use():
    import numpy as np
    before = machine.peak_rss()
    block = np.ones(before // 8 + (1 << 23))                   # as much again as ever before
    assert machine.peak_rss() > before and block[0] == 1


def test_tuning_the_allocator_never_breaks_and_says_whether_it_did(monkeypatch):
    import platform
    assert machine.tune_allocator() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert machine.tune_allocator() is False
