"""Recipes by name and by file: what comes from where, and what happens to a name that is not there."""
import json
from pathlib import Path

import pytest

from meristem.core.config import to_dict
from meristem.core.errors import RequestError
from meristem.recipes import recipes, resolve


def test_a_file_with_all_fields_is_the_same_run(tmp_path: Path) -> None:
    for name in recipes():
        run, _ = resolve(name)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(to_dict(run)))
        assert resolve(str(path))[0] == run


def test_origins_cover_every_field() -> None:
    run, origins = resolve("llama", {"model.qk_norm": True, "train.lr": 3e-3})
    assert run.model.fields["qk_norm"] is True
    assert origins["train.lr"] == "edit", "an edit to the value that was there is still an edit"
    assert origins["model.qk_norm"] == "edit" and origins["model.dim"] == "recipe llama"
    assert origins["train.clip"] == "default"


def test_a_file_of_some_fields_has_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[train]\nsteps = 7\n")
    run, origins = resolve(str(path), {"seed": 4})
    assert (run.name, run.seed, run.train.steps) == ("mine", 4, 7)
    assert (origins["train.steps"], origins["seed"], origins["train.lr"]) == (f"file {path}", "edit", "default")


@pytest.mark.parametrize("name", ["lama", "nowhere.yaml", ""])
def test_no_such_recipe(name: str) -> None:
    with pytest.raises(RequestError, match="did you mean llama|nowhere.yaml|known"):
        resolve(name)
