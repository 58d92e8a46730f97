"""Checkpoints: what goes in comes out, retention, one trainer a folder, and writing behind the caller's back."""
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core import faults
from meristem.core.errors import MachineError, RequestError
from meristem.core.files import MANIFEST, committed
from meristem.core.progress import Progress
from meristem.train.checkpoint import Checkpoints


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def heard():
    yield Heard()
    faults.arm("")


def state(step: int) -> dict:
    return {"model": {"w": torch.full((3, 4), float(step)), "b": torch.arange(5) + step},
            "optim": {"w.m": torch.ones(3) * step}}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[k].keys() == b[k].keys()
        and all(torch.equal(a[k][n], b[k][n]) and a[k][n].dtype == b[k][n].dtype for n in a[k]) for k in a)


def folders(path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir())


def test_what_goes_in_comes_out(tmp_path):
    with Checkpoints(tmp_path / "c") as c:
        assert c.newest() is None
        c.save(7, state(7), {"tokens": 12, "skips": [1, 2]})
        c.wait()
        step, tensors, meta = c.newest()
    assert step == 7 and same(tensors, state(7)) and meta == {"tokens": 12, "skips": [1, 2]}
    files = sorted(p.name for p in (tmp_path / "c" / "step-000007").iterdir())
    assert files == [MANIFEST, "model.safetensors", "optim.safetensors", "state.json"]


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8,
          torch.bool, torch.float8_e4m3fn]


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 5), max_size=3), dtype=st.sampled_from(DTYPES), turn=st.booleans(),
       seed=st.integers(0, 99))
def test_every_type_shape_and_stride_survives_bit_for_bit(tmp_path_factory, shape, dtype, turn, seed):
    t = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)
    t = t.transpose(0, -1) if turn and shape else t
    with Checkpoints(tmp_path_factory.mktemp("c")) as c:
        c.save(1, {"model": {"t": t}}, {})
        c.wait()
        back = c.newest()[1]["model"]["t"]
    assert back.shape == t.shape and back.dtype == t.dtype
    assert back.contiguous().view(-1).tolist() == t.contiguous().view(-1).tolist()


def test_tied_tensors_are_kept_once_and_come_back_under_both_names(tmp_path):
    w, other = torch.randn(100, 10), torch.randn(100, 10)
    model = {"embed.weight": w, "head.weight": w, "part": w[:50], "other": other, "grad": torch.nn.Parameter(other)}
    with Checkpoints(tmp_path) as c:
        c.save(1, {"model": model}, {})
        c.wait()
        back = c.newest()[1]
    assert same(back, {"model": {k: v.detach() for k, v in model.items()}})
    assert (tmp_path / "step-000001" / "model.safetensors").stat().st_size < 4 * (1000 + 500 + 1000) + 600


def test_a_tensors_name_is_never_a_path_but_a_files_is_checked(tmp_path):
    with Checkpoints(tmp_path / "c") as c:
        c.save(1, {"model": {"../../x": torch.ones(2), "/etc/passwd": torch.ones(1)}}, {})
        c.wait()
        assert set(c.newest()[1]["model"]) == {"../../x", "/etc/passwd"}
        with pytest.raises(ValueError, match="cannot name a file"):
            c.save(2, {"../model": {}}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_the_saved_state_is_that_of_the_call_whatever_training_does_next(tmp_path, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr("meristem.train.checkpoint.point", lambda name: gate.wait(10) if name == "ckpt.begin" else None)
    with Checkpoints(tmp_path) as c:
        live = state(1)
        c.save(1, live, {})
        assert not (tmp_path / "step-000001").exists(), "the save should return before it is written"
        live["model"]["w"].fill_(99)
        gate.set()
        c.wait()
        assert same(c.newest()[1], state(1))
        c.save(2, {"model": live["model"]}, {})                # other keys, other shapes: buffers follow
        c.save(3, {"model": {"w": torch.zeros(2)}}, {})
        c.wait()
        assert same(c.newest()[1], {"model": {"w": torch.zeros(2)}})


def test_the_newest_k_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=3) as c:
        for step in (1, 2, 10, 100, 1_000_000, 1_000_001):
            c.save(step, state(step), {})
            c.wait()
        assert folders(tmp_path) == ["step-000100", "step-1000000", "step-1000001"] and c.newest()[0] == 1_000_001
        c.discard()
        assert folders(tmp_path) == [] and c.newest() is None
    with pytest.raises(RequestError, match="train.keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_saving_a_step_again_replaces_it(tmp_path):
    with Checkpoints(tmp_path) as c:
        for value in (1, 2):
            c.save(5, state(value), {"n": value})
        c.wait()
        assert c.newest()[2] == {"n": 2} and same(c.newest()[1], state(2)) and folders(tmp_path) == ["step-000005"]


def test_a_second_trainer_is_refused_by_name_until_the_first_is_gone(tmp_path):
    hold = ("import fcntl, sys; f = open(sys.argv[1], 'w'); f.write('process 42 on far-away'); f.flush(); "
            "fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "lock")], stdin=-1, stdout=-1) as other:
        other.stdout.read(1)
        with pytest.raises(RequestError, match="being trained by process 42 on far-away"):
            Checkpoints(tmp_path).lock()
        # not a clean exit: the kernel drops the lock all the same
        other.kill()
    with Checkpoints(tmp_path), pytest.raises(RequestError, match=f"process {os.getpid()} on "):
        Checkpoints(tmp_path).lock()
    with Checkpoints(tmp_path):
        pass


def test_failed_saves_warn_then_stop_the_run_and_a_good_one_forgives(tmp_path, heard):
    with Checkpoints(tmp_path, progress=heard) as c:
        c.save(1, state(1), {})
        c.wait()
        for first in (2, 5):                                   # two failures, then a good save; twice
            faults.arm("ckpt.begin:1:error,ckpt.begin:2:error")
            for step in (first, first + 1, first + 2):
                c.save(step, state(step), {})
                c.wait()
            assert c.failures == 0 and c.newest()[0] == first + 2
        assert len(heard.warnings) == 4 and "checkpoint of step 2 could not be written" in heard.warnings[0]
        faults.arm(",".join(f"ckpt.begin:{n}:error" for n in (1, 2, 3)))
        c.save(8, state(8), {})
        c.save(9, state(9), {})
        c.save(10, state(10), {})
        with pytest.raises(MachineError, match="3 checkpoints in a row .* step 10, older checkpoints are intact"):
            c.wait()
        assert c.newest()[0] == 7


def test_a_failure_behind_the_callers_back_surfaces_at_a_later_check(tmp_path, heard):
    faults.arm("ckpt.manifest:1:error")
    with Checkpoints(tmp_path, progress=heard) as c:
        c.save(1, state(1), {})
        while not heard.warnings:
            c.check()
        assert "injected at ckpt.manifest" in heard.warnings[0] and c.failures == 1 and folders(tmp_path) == []
        c.check()
        assert len(heard.warnings) == 1, "a failure is reported once"


def test_a_bug_in_the_writer_is_not_mistaken_for_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("meristem.train.pieces.save_file", lambda *a: 1 / 0)
    c = Checkpoints(tmp_path)
    c.save(1, state(1), {})
    with pytest.raises(ZeroDivisionError):
        c.close()


@pytest.mark.parametrize(("edit", "reason"),
                         [({"step": 9}, "it holds step 9"), ({"aliases": {"absent": {}}}, "absent.safetensors"),
                                              ({"meta": None, "aliases": 3}, "attribute 'items'")])
def test_a_checkpoint_that_contradicts_itself_is_set_aside(tmp_path, heard, edit, reason):
    _with_state(tmp_path, edit)
    with Checkpoints(tmp_path, progress=heard) as c:
        assert c.newest()[0] == 1
    assert reason in heard.warnings[0] and folders(tmp_path) == ["bad-step-000002", "step-000001"]


def test_another_versions_checkpoint_is_refused_not_set_aside(tmp_path):
    _with_state(tmp_path, {"schema": 99})
    with Checkpoints(tmp_path) as c, pytest.raises(MachineError, match="schema 99"):
        c.newest()
    assert folders(tmp_path) == ["step-000001", "step-000002"]


def _with_state(folder, edit):
    """Steps 1 and 2, the second with an edited but correctly committed description."""
    with Checkpoints(folder) as c:
        c.save(1, state(1), {})
    with committed(folder / "step-000002") as t:
        first = json.loads((folder / "step-000001" / "state.json").read_text())
        (t / "state.json").write_text(json.dumps(first | {"step": 2} | edit))
