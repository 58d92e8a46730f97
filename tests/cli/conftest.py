"""A command line in this process, and one tiny real run that the tests of the verbs share."""
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meristem.cli.main import main

TINY = ["model.dim=32", "model.layers=1", "model.heads=2", "model.groups=1", "model.hidden=64", "train.context=64",
        "train.batch=4", "train.compile=false", "train.dtype=float32", "train.validate_every=0", "train.sample_every=0",
        "data.codec.vocab=512"]


@dataclass
class Result:
    """What a command line left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object of the last line of standard output."""
        return json.loads(self.out.rstrip("\n").split("\n")[-1])

    @property
    def complaint(self) -> str:
        """The one line that a failed command ends with; fails when there is a traceback or no such line."""
        assert "Traceback" not in self.err and "Traceback" not in self.out
        lines = [line for line in self.err.splitlines() if line.startswith("meristem: ")]
        assert len(lines) == 1 and self.err.rstrip("\n").endswith(lines[0]), self.err
        return lines[0]


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Edits that make any recipe train in a blink."""
    return TINY


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("list", "recipes", "--json")`: the verb in this process."""
    def call(*words: object) -> Result:
        capsys.readouterr()
        status = main([str(w) for w in words])
        return Result(status, *capsys.readouterr())
    return call


@pytest.fixture(scope="session")
def corpus(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated corpus of 60 real files."""
    folder = tmp_path_factory.mktemp("cli") / "corpus"
    assert main(["curate", str(real_files), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def trained(corpus: Path) -> Path:
    """A run folder: six steps of a model with 40 thousand parameters."""
    folder = corpus.parent / "base"
    assert main(["pretrain", "llama", *TINY, f"data.corpus={corpus}", "train.steps=6", "--out", str(folder)]) == 0
    return folder
