"""Preflight: what is wrong is found before the first step, and what is right passes; nothing of the run is changed."""
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from meristem.cli.main import main
from meristem.core.config import Part
from meristem.core.errors import MachineError
from meristem.core.progress import Progress
from meristem.core.run import Data, Run, Train
from meristem.corpus.curate import curate
from meristem.train import preflight
from meristem.train.checkpoint import Checkpoints
from meristem.train.run import assemble, check, pretrain, trainer_of


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def run(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    corpus = curate([real_files], tmp_path_factory.mktemp("preflight") / "corpus")
    train = Train(steps=3, batch=4, context=64, warmup=1, lr=1e-2, dtype="float32", compile=False)
    return Run("small", Part("llama", {"dim": 32, "layers": 1, "heads": 2}),
               data=Data(str(corpus.folder), Part("char")), train=train)


@pytest.fixture
def parts(run: Run):
    return assemble(run)


def weights(parts) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in parts.objective.parameters()])


def test_a_sound_run_passes_every_check_and_is_left_as_it_was(parts, tmp_path: Path) -> None:
    before, generator, trainer = weights(parts), torch.get_rng_state(), trainer_of(parts)
    checks = preflight.thorough(parts, trainer, tmp_path / "run")
    assert [c.name for c in checks] == ["disk", "tokenizer", "first loss", "save and load", "one batch"]
    assert all(c.well for c in checks), [c.line() for c in checks]
    assert torch.equal(weights(parts), before) and torch.equal(torch.get_rng_state(), generator)
    assert list(tmp_path.iterdir()) == [] and parts.objective.training


def test_it_does_not_change_what_a_run_computes(run: Run, parts, tmp_path: Path) -> None:
    one, two = trainer_of(parts), trainer_of(assemble(run))
    preflight.quick(parts, one, tmp_path, Heard())
    for _ in range(2):
        assert one.update(parts.source(0)) == two.update(parts.source(0))
    assert torch.equal(torch.cat([p.flatten() for p in one.optim.params]),
                       torch.cat([p.flatten() for p in two.optim.params]))


def test_a_full_disk_is_refused_with_the_arithmetic(parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(parts)
    trainer.update(parts.source(0))
    tensors = {"model": dict(parts.objective.state_dict()), "optim": trainer.optim.state()}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, tensors, {})
    real = sum(p.stat().st_size for p in (tmp_path / "c" / "step-000001").glob("*.safetensors"))
    assert preflight.checkpoint_bytes(trainer) == pytest.approx(real, rel=0.05)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=3.9 * real))
    with pytest.raises(MachineError, match="disk: .* GB free for 4 checkpoints of .* free some space"):
        preflight.quick(parts, trainer, tmp_path / "run", Heard())
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=4.3 * real))
    preflight.quick(parts, trainer, tmp_path / "run", Heard())


def test_another_tokenizer_than_the_shards_is_refused(parts, tmp_path: Path) -> None:
    parts.shards.index["codec"] = "0" * 32
    with pytest.raises(MachineError, match="made with 000000000000, the tokenizer is"):
        preflight.quick(parts, trainer_of(parts), tmp_path, Heard())


def test_a_model_that_does_not_start_blind_is_warned_of(parts, tmp_path: Path) -> None:
    heard, trainer = Heard(), trainer_of(parts)
    preflight.quick(parts, trainer, tmp_path, heard)
    assert not heard.warnings
    with torch.no_grad():
        parts.objective.model.head.weight.mul_(60)
    preflight.quick(parts, trainer, tmp_path, heard)
    assert "first loss" in heard.warnings[0] and f"{math.log(parts.codec.vocab):.3f}" in heard.warnings[0]


def test_only_untrained_models_that_predict_ids_must_start_blind(run: Run, parts) -> None:
    for other in (replace(run, base="folder"), replace(run, objective=Part("masked"))):
        assert preflight.first_loss(SimpleNamespace(run=other)) is None
    assert preflight.first_loss(parts)


def test_gradients_that_do_not_arrive_are_found(parts) -> None:
    assert preflight.one_batch(parts).well
    forward = parts.objective.model.forward
    parts.objective.model.forward = lambda *args, **more: forward(*args, **more).detach().requires_grad_()
    assert not preflight.one_batch(parts).well


def test_a_flipped_bit_on_the_way_to_the_disk_is_found(parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(parts)
    assert preflight.round_trip(trainer, tmp_path).well
    newest = Checkpoints.newest

    def flipped(self, last=None):
        step, tensors, meta = newest(self, last)
        next(iter(tensors["model"].values())).view(-1)[0] += 1e-3
        return step, tensors, meta
    monkeypatch.setattr(Checkpoints, "newest", flipped)
    assert not preflight.round_trip(trainer, tmp_path).well


def test_check_on_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "llama", f"data.corpus={run.data.corpus}", "data.codec.name=char", "model.dim=32",
             "model.layers=1", "model.heads=2", "model.groups=2", "model.hidden=64", "train.steps=3",
             "train.context=64", "train.batch=4", "train.lr=0.01", "--out", str(tmp_path / "run"), "--check"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.count("ok  ") == 5 and not (tmp_path / "run").exists()
    assert main([*words, "train.lr=1e-12"]) == 2
    assert "one batch" in capsys.readouterr().err


def test_a_run_says_its_goodput_and_keeps_it(run: Run, tmp_path: Path) -> None:
    lines: list[str] = []
    heard = Heard()
    heard.say = lines.append
    folder = pretrain(run, tmp_path / "run", progress=heard)
    assert any(line.startswith("goodput ") for line in lines) and not heard.warnings
    from meristem.core.files import read_json
    account = read_json(folder / "result.json")["goodput"]
    assert 0 < account["share"] < 1 and account["launches"] == 1 and "setup" in account["lost_seconds"]
    assert account["useful_seconds"] + sum(account["lost_seconds"].values()) == pytest.approx(account["wall_seconds"])
    assert check(run, tmp_path / "other") and not (tmp_path / "other").exists()
