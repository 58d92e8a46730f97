"""What may change between two launches of a run: each change is refused by its name, or recorded if allowed."""
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.progress import Progress
from meristem.core.run import Run, Train
from meristem.train import run as runs


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def parts(**more: Any) -> Any:
    """What log_manifest looks at."""
    hashes = {"corpus": "c" * 32, "codec": "k" * 32, "base": "", **more}
    return SimpleNamespace(
        corpus=SimpleNamespace(hash=hashes["corpus"], summary={}), codec=SimpleNamespace(hash=hashes["codec"]),
        family="llama",
        shards=SimpleNamespace(hash="s"), base_hash=hashes["base"],
        objective=SimpleNamespace(model=torch.nn.Linear(2, 2)),
        run=Run("small", train=Train(mesh=more.get("mesh", ""))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert runs.log_manifest(tmp_path, parts(), Heard())
    return tmp_path


def test_nothing_changed_is_nothing_to_say(folder: Path) -> None:
    heard = Heard()
    assert not runs.log_manifest(folder, parts(), heard) and not heard.warnings


@pytest.mark.parametrize("key", ["corpus", "codec", "base"])
def test_other_data_is_refused_even_if_drift_is_allowed(folder: Path, key: str) -> None:
    with pytest.raises(RequestError, match=f"the {key} of .* has changed since its first step .* choose another --out"):
        runs.log_manifest(folder, parts(**{key: "f" * 32}), Heard(), allow_drift=True)


@pytest.mark.parametrize("key", ["threads", "torch", "meristem", "code", "python", "platform", "cpu", "cores",
                                 "memory", "compiler"])
def test_another_machine_or_version_is_refused_by_name_or_recorded(folder: Path, key: str,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    honest, heard = runs.machine.identity(), Heard()
    monkeypatch.setattr(runs.machine, "identity", lambda: {**honest, key: "other"})
    with pytest.raises(RequestError, match=rf"{key} .* -> other\).*--allow-drift"):
        runs.log_manifest(folder, parts(), heard)
    runs.log_manifest(folder, parts(), heard, allow_drift=True)
    assert read_json(folder / "manifest.json")["drift"] == [{key: [honest[key], "other"]}]
    assert len(heard.warnings) == 1 and "no longer bit for bit" in heard.warnings[0]
    runs.log_manifest(folder, parts(), heard)                  # recorded: the next launch is at home there
    assert len(heard.warnings) == 1


def test_another_mesh_may_come_and_is_recorded(folder: Path) -> None:
    heard = Heard()
    runs.log_manifest(folder, parts(mesh="dp=2"), heard)
    assert read_json(folder / "manifest.json")["drift"] == [{"mesh": ["dp=1", "dp=2"]}] and len(heard.warnings) == 1
