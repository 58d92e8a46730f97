"""A step of a run, computed again: equal bits, or the first fact that differs."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meristem.cli.main import main
from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.run import Data, Run, Train
from meristem.corpus.curate import curate
from meristem.train import run as runs
from meristem.train.replay import replay


@pytest.fixture(scope="module")
def folder(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps with checkpoints all along."""
    home = tmp_path_factory.mktemp("replay")
    corpus = curate([real_files], home / "corpus")
    train = Train(steps=12, batch=4, context=64, warmup=2, compile=False, save_seconds=0.0, keep=20)
    run = Run("small", model=Part("llama", {"dim": 32, "layers": 1, "heads": 2}),
              data=Data(str(corpus.folder), Part("char")), train=train)
    return runs.pretrain(run, home / "run")


@pytest.mark.parametrize("step", [1, 7, 12])
def test_every_step_can_be_had_again(folder: Path, step: int) -> None:
    found = replay(folder, step)
    assert not found.differences and found.step == step and found.first == step


def test_without_a_checkpoint_it_starts_from_the_seed(folder: Path, tmp_path: Path) -> None:
    for name in ("recipe.json", "log.jsonl", "manifest.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert replay(tmp_path, 6) == replace(replay(folder, 6), first=1)


def test_one_changed_bit_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("recipe.json", "manifest.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines[3]["loss"] += 1e-7
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [d[:2] for d in replay(tmp_path, 5).differences] == [(4, "loss")]
    assert main(["replay", str(tmp_path), "--step", "5"]) == 1
    assert "step 4" in (told := capsys.readouterr().err) and "its loss was" in told and "Traceback" not in told
    assert main(["replay", str(folder), "--step", "5"]) == 0


def test_what_cannot_be_replayed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="it has 1 to 12"):
        replay(folder, 13)
    with pytest.raises(RequestError, match="not a run folder"):
        replay(tmp_path, 1)


def test_drift_is_refused_until_it_is_allowed_and_then_recorded(folder: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.from_dict(Run, runs.read_json(folder / "recipe.json"))
    short = replace(run, train=replace(run.train, steps=3))
    runs.pretrain(short, tmp_path)
    (tmp_path / "result.json").unlink()                        # as if it had been stopped before its end
    honest = runs.machine.identity()
    monkeypatch.setattr(runs.machine, "identity", lambda: {**honest, "threads": 64})
    with pytest.raises(RequestError, match="threads .* -> 64.*--allow-drift"):
        runs.pretrain(short, tmp_path)
    runs.pretrain(short, tmp_path, allow_drift=True)
    assert runs.read_json(tmp_path / "manifest.json")["drift"] == [{"threads": [honest["threads"], 64]}]


@pytest.mark.slow
def test_no_kernel_hangs_on_the_shapes_that_were_timed_before_it(real_files: Path, tmp_path: Path) -> None:
    """A kernel for any batch size has other last bits than one for this size: none may be made (docs/log.md)."""
    corpus = curate([real_files], tmp_path / "corpus")
    script = """
import sys
from meristem.core.config import Part, edit
from meristem.core.run import Data, Run, Train
from meristem.train.probe import tokens_per_second
run = Run("x", model=Part("llama", {"dim": 64, "layers": 1, "heads": 2}), data=Data(sys.argv[1], Part("char")),
          train=Train(context=64))
for batch in (8, 12, 20):
    tokens_per_second(edit(run, {"train.batch": batch}), 1)
"""
    env = {k: v for k, v in os.environ.items() if k != "TORCHDYNAMO_DISABLE"} | {"TORCH_LOGS": "dynamic"}
    done = subprocess.run([sys.executable, "-c", script, str(corpus.folder)], env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "create_env" in done.stderr, "torch has changed what it logs: this test sees nothing"
    assert "create_symbol" not in done.stderr
