"""What surrounds a run: its energy adds up over its parts, and a run without a corpus begins no folder."""
from pathlib import Path

import pytest

from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.progress import Progress
from meristem.plan.energy import Meter
from meristem.recipes.language import llama
from meristem.train.run import metered, pretrain


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_energy_adds_up_over_the_parts_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "energy.json"
    monkeypatch.setattr("meristem.plan.energy.POWERCAP", tmp_path / "nowhere")
    clock = iter([0.0, 10.0, 100.0, 130.0, 0.0, 1.0])
    monkeypatch.setattr("meristem.plan.energy.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("meristem.train.run.Meter", lambda: Meter(root=tmp_path / "nowhere"))
    with metered(path):
        pass
    first = read_json(path)
    with pytest.raises(KeyboardInterrupt), metered(path):      # stopped: what was spent is spent
        raise KeyboardInterrupt
    second = read_json(path)
    for key in ("joules", "low", "high", "grams"):
        assert second[key] == pytest.approx(4 * first[key]) and first[key] > 0
    assert "estimated" in second["method"]
    heard = Heard()
    with metered(tmp_path / "no folder" / "energy.json", heard):
        pass
    assert len(heard.warnings) == 1 and "could not write" in heard.warnings[0]


@pytest.mark.parametrize("corpus", ["", "nowhere"])
def test_a_run_without_a_corpus_begins_no_folder(corpus: str, tmp_path: Path) -> None:
    from meristem.core.config import edit
    with pytest.raises(RequestError, match="curate|nowhere"):
        pretrain(edit(llama(), {"data.corpus": corpus}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
