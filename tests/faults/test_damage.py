"""Damaged, missing and foreign checkpoints: named, set aside, never loaded, never a silent start from nothing."""
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meristem.core.errors import MachineError
from meristem.core.progress import Progress
from meristem.train.checkpoint import Checkpoints

FILES = ["model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json"]


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def state(step: int) -> dict:
    return {"model": {"w": torch.full((30,), float(step))}, "optim": {"m": torch.full((7,), float(step))}}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Three checkpoints: 10, 20, 30."""
    folder = tmp_path_factory.mktemp("good")
    with Checkpoints(folder, keep=3) as c:
        for step in (10, 20, 30):
            c.save(step, state(step), {"n": step})
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "c"))


def newest(folder: Path) -> tuple[int, list[str]]:
    """(step, warnings) of a restart; every number of what is loaded must be that step's."""
    heard = Heard()
    with Checkpoints(folder, progress=heard) as c:
        step, tensors, meta = c.newest()
    assert meta == {"n": step} and all(torch.equal(tensors[k][n], t) for k, named in state(step).items() for n,
                                       t in named.items())
    return step, heard.warnings


def break_it(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "torn":
        os.truncate(path, path.stat().st_size - 5)
    else:
        path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "longer"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_costs_one_checkpoint_and_is_named(folder, name, how):
    break_it(folder / "step-000030" / name, how)
    step, (warning,) = newest(folder)
    assert step == 20 and "step-000030 is damaged and was set aside as bad-step-000030" in warning and name in warning
    assert sorted(p.name for p in folder.glob("*step*")) == ["bad-step-000030", "step-000010", "step-000020"]
    assert newest(folder) == (20, []), "a damaged one is reported once"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_is_never_loaded(good, tmp_path, data):
    folder = tmp_path / "flip"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    path = folder / "step-000030" / data.draw(st.sampled_from(FILES[:3]))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    step, (warning,) = newest(folder)
    assert step == 20 and f"{path.name} is damaged" in warning


def test_two_newest_damaged_uses_the_third(folder):
    break_it(folder / "step-000030" / "model.safetensors", "torn")
    break_it(folder / "step-000020" / "MANIFEST.json", "missing")
    step, warnings = newest(folder)
    assert step == 10 and len(warnings) == 2


def test_all_damaged_is_an_error_every_time_until_fresh(folder):
    for step in (10, 20, 30):
        break_it(folder / f"step-0000{step}" / "optim.safetensors", "empty")
    with Checkpoints(folder) as c:
        for _ in range(2):                                     # the second start sees only bad ones: still no new run
            with pytest.raises(MachineError, match="every checkpoint in .* is damaged .*--fresh"):
                c.newest()
        c.discard()
        assert c.newest() is None
    assert [p.name for p in folder.iterdir()] == ["lock"]


def test_the_same_step_damaged_twice_keeps_both_for_inspection(folder):
    for _ in range(2):
        break_it(folder / "step-000030" / "state.json", "empty")
        assert newest(folder)[0] == 20
        with Checkpoints(folder) as c:
            c.save(30, state(30), {"n": 30})
    assert sorted(p.name for p in folder.glob("bad*")) == ["bad-step-000030",
                                                           "bad-step-000030.2"] and newest(folder)[0] == 30


def test_foreign_things_are_ignored_and_untouched(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "step-000099").symlink_to(tmp_path / "elsewhere")
    (folder / "step-000098").write_text("a file")
    for name in ("step-junk", "step-", "backup-step-000097", "step-000096.old", "notes"):
        (folder / name).mkdir()
    before = sorted(p.name for p in folder.iterdir())
    assert newest(folder) == (30, [])
    assert sorted(p.name for p in folder.iterdir()) == before


def test_half_written_leftovers_are_removed_without_following_links(folder, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / ".tmp-step-000040-123").mkdir()
    (folder / ".tmp-step-000040-123" / "model.safetensors").touch()
    (folder / ".tmp-link").symlink_to(tmp_path / "precious")
    (folder / ".tmp-state.json-1").touch()
    assert newest(folder) == (30, []) and not list(folder.glob(".tmp*")) and (tmp_path / "precious" / "file").exists()


def test_step_numbers_order_checkpoints_not_dates(folder):
    for path in (folder / "step-000010").iterdir():
        os.utime(path, (4e9, 4e9))                             # the year 2096
    os.utime(folder / "step-000010", (4e9, 4e9))
    os.utime(folder / "step-000030", (0, 0))
    assert newest(folder) == (30, [])


def test_a_renamed_checkpoint_does_not_pass_for_another_step(folder):
    os.rename(folder / "step-000010", folder / "step-000050")
    step, (warning,) = newest(folder)
    assert step == 30 and "it holds step 10" in warning
