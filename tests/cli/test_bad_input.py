"""Bad input, one test a case: the exit status, one clear line, no traceback, and nothing that was there is lost."""
import os
import shutil
from pathlib import Path

import pytest

from meristem.core.files import read_json


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("words", "status", "line"), [
    (["pretrain", "lama"], 2, "did you mean llama"),
    (["pretrain", "mine.yaml"], 2, "mine.yaml"),
    (["show", "llama", "train.stps=3", "modle.dim=2"], 2, "did you mean steps"),
    (["show", "llama", "train.steps=many"], 2, "valid integer"),
    (["show", "llama", "train.steps"], 2, "field.name=value"),
    (["show", "llama", "model.wdth=3"], 2, "wdth"),
    (["pretrain"], 2, "which recipe"),
    (["pretrain", "llama"], 2, "meristem curate"),
    (["pretrain", "llama", "data.corpus=nowhere"], 2, "nowhere"),
    (["pretrain", "--from", "nowhere"], 2, "not a run folder"),
    (["pretrain", "function_bodies"], 2, "meristem adapt"),
    (["adapt", "nowhere", "function_bodies"], 2, "neither a model folder"),
    (["curate", "nowhere"], 2, "no such file or folder"),
    (["curate", ".", "--limit", "big"], 2, "is not a size"),
    (["generate", "nowhere", "def"], 2, "neither a model folder"),
    (["chat", "nowhere"], 2, "neither a model folder"),
    (["evaluate", "nowhere", "--corpus", "c", "--tasks", "bits_per_bite"], 2, "did you mean bits_per_byte"),
    (["export", "nowhere", "--out", "x", "--to", "ghf"], 2, "did you mean hf"),
    (["card", "nowhere"], 2, "not a run folder"),
    (["plan", "--corpus", "nowhere"], 2, "nowhere"),
    (["quickstart", "nowhere"], 2, "no such file or folder"),
    (["quickstart", "--budget", "soon"], 2, "is not a duration"),
    (["quickstart", "--budget", "3s"], 2, "the smallest that works is --budget"),
])
def test_one_line_and_a_status(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int,
                               line: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.status == status and line in result.complaint
    assert tree(tmp_path) == {}, "a refused request leaves nothing behind"


def test_every_mistake_at_once(run) -> None:
    line = run("show", "llama", "train.stps=3", "sed=1").complaint
    assert "steps" in line and "seed" in line


def test_an_empty_folder(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("curate", tmp_path / "empty", "--out", tmp_path / "out")
    assert result.status == 2 and "empty" in result.complaint
    assert not (tmp_path / "out").exists(), "what was refused leaves nothing"
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_hostile_files_are_refused_one_by_one_and_the_rest_is_read(run, real_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(real_files, folder)
    (folder / "binary.py").write_bytes(bytes(range(256)) * 20)
    (folder / "invalid.py").write_bytes(b"x = '\xff\xfe\xfa'\n" * 50)
    (folder / "zero.txt").write_bytes(b"")
    with open(folder / "line.txt", "wb") as f:
        for _ in range(200):
            f.write(b"a" * 1_000_000)
    (folder / "gone.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.py")
    result = run("curate", folder, "--out", tmp_path / "out", "--json")
    assert result.status == 0
    rows = (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
    for name in ("binary.py", "zero.txt", "line.txt"):
        found = [row for row in rows if f"{name}\"" in row]
        assert found and all('"dropped"' in row for row in found), f"{name} is not accounted for"


def test_only_hostile_files(run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "noise.bin").write_bytes(os.urandom(5_000))
    result = run("curate", tmp_path / "in", "--out", tmp_path / "out")
    assert result.status == 2 and result.complaint


def test_an_output_folder_that_holds_something_else(run, real_files: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for words in (["curate", real_files], ["quickstart", real_files, "--budget", "5m"], ["quickstart", "--fresh"]):
        result = run(*words, "--out", tmp_path)
        assert result.status == 2 and "choose another --out" in result.complaint
        assert tree(tmp_path) == {"thesis.txt": b"years of work"}
    result = run("curate", real_files, "--out", tmp_path / "thesis.txt")
    assert result.status == 2 and "is a file" in result.complaint


def test_a_run_folder_that_holds_another_run(run, tiny: list[str], corpus: Path, trained: Path) -> None:
    before = tree(trained)
    result = run("pretrain", "llama", *tiny, f"data.corpus={corpus}", "train.steps=7", "--out", trained)
    assert result.status == 2 and "train.steps is 6 there, 7 here" in result.complaint
    assert tree(trained) == before


def test_the_same_run_again_is_finished(run, corpus: Path, trained: Path) -> None:
    weights = (trained / "model" / "model.safetensors").read_bytes()
    again = run("pretrain", "--from", trained, "--json")
    assert again.status == 0 and again.json["step"] == 6
    assert (trained / "model" / "model.safetensors").read_bytes() == weights


def test_damaged_checkpoints_are_named(run, corpus: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").rglob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    result = run("pretrain", "--from", folder)
    assert result.status == 3 and "--fresh" in result.complaint
    assert run("pretrain", "--from", folder, "--fresh").status == 0


@pytest.mark.parametrize("damage", ["missing", "shape", "truncated", "no weights", "config"])
def test_a_damaged_model_folder(run, trained: Path, tmp_path: Path, damage: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    weights, name = folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(weights)
    if damage in ("missing", "shape"):
        (folder / "MANIFEST.json").unlink()                     # as from another program; ours have a manifest
    if damage == "missing":
        del tensors[name]
        save_file(tensors, weights)
    elif damage == "shape":
        save_file({**tensors, name: torch.zeros(3, 3)}, weights)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    else:
        (folder / "config.json").write_text("{")
    result = run("generate", folder, "def ")
    assert result.status in (1, 2) and result.complaint
    if damage in ("missing", "shape"):
        assert result.status == 2 and name in result.complaint


def test_an_empty_prompt(run, trained: Path) -> None:
    assert run("generate", trained, "").complaint.startswith("meristem: the prompt is empty")


def test_another_quickstart_in_the_folder(run, tmp_path: Path) -> None:
    (tmp_path / "quickstart.json").write_text('{"paths": [], "budget_seconds": 900.0, "seconds": {}}')
    result = run("quickstart", "--budget", "5m", "--out", tmp_path)
    assert result.status == 2 and "900.0 there, 300.0 here" in result.complaint
    assert read_json(tmp_path / "quickstart.json")["budget_seconds"] == 900.0
