"""The whole lifecycle on 60 real files in seconds: every stage runs, every file is there, hashes chain, it resumes."""
import re
from json import dumps
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from meristem.core.errors import RequestError
from meristem.core.files import digest, read_json, verify
from meristem.core.progress import Progress
from meristem.recipes.quickstart import SMALLEST, quickstart

EDITS = {"model.dim": 64, "model.layers": 2, "model.heads": 2, "model.groups": 1, "model.hidden": 128,
         "train.context": 128, "train.batch": 4, "train.steps": 8, "train.warmup": 1, "train.compile": False,
         "train.dtype": "float32", "train.validate_every": 4, "train.sample_every": 8}


class Recorder(Progress):
    """Remembers the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: float | None = None) -> None:
        self.stages.append(name)


def run(files: Path, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    return quickstart([files], out, 90.0, edits=EDITS, limit=6, rate=lambda _: 20_000.0,
                      progress=progress or Progress())


@pytest.fixture(scope="module")
def done(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    return out, run(real_files, out)


def test_every_file_is_there(done: tuple[Path, dict[str, Any]]) -> None:
    out, facts = done
    names = ["quickstart.json", "plan.json", "report.html", "corpus/corpus.json", "corpus/ledger.jsonl"]
    for run_name in ("base", "fill"):
        names += [f"{run_name}/{name}" for name in (
            "recipe.json", "manifest.json", "log.jsonl", "result.json", "energy.json", "model/model.safetensors",
            "model/tokenizer.json", "model/README.md", "evals/bits_per_byte.json")]
    names += ["base/samples.jsonl", "fill/adapter/adapter_model.safetensors"]
    assert [name for name in names if not (out / name).is_file()] == []
    assert facts["total_seconds"] < 90 and "meristem chat" in facts["summary"]


def test_the_hashes_chain(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    state, base, fill = (read_json(out / p) for p in ("quickstart.json", "base/manifest.json", "fill/manifest.json"))
    assert state["corpus"] == base["corpus"] == fill["corpus"]
    assert base["codec"] == fill["codec"]
    assert base["base"] == "" and fill["base"] == read_json(out / "base/result.json")["model"]
    for name in ("base", "fill"):
        assert verify(out / name / "model") == ""
        scores = [s for p in (out / name / "evals").glob("*.json") for s in read_json(p)["scores"]]
        assert {s["model_hash"] for s in scores} == {read_json(out / name / "result.json")["model"]}
        assert {s["corpus_hash"] for s in scores} == {state["corpus"]}


def test_every_score_is_a_certificate(done: tuple[Path, dict[str, Any]]) -> None:
    _, facts = done
    assert {s["task"] for s in facts["scores"]} == {"bits_per_byte", "parses_as_python", "function_bodies"}
    for score in facts["scores"]:
        assert score["n"] > 0 and score["interval"]["low"] <= score["value"] <= score["interval"]["high"]
        assert score["contamination"]["clean_n"] <= score["n"]
        assert (score["paired"] is not None) == (score["model"] == "fill")


def test_the_report_needs_no_network(done: tuple[Path, dict[str, Any]]) -> None:
    page = (done[0] / "report.html").read_text(encoding="utf-8")
    fetched = re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)[^"']*|@import|url\((?!#|["']?data:)[^)]*""", page)
    assert [f for f in fetched if "//" in f] == [] and "<svg" in page


def test_transformers_gives_the_same_logits(done: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from meristem.hub import hf
    for name in ("base", "fill"):
        folder = done[0] / name / "model"
        ours, theirs = hf.load(folder), AutoModelForCausalLM.from_pretrained(folder)
        text = "def add(a, b):\n    return a + b\n"
        ids = torch.tensor(ours.codec.encode(text)[None]).long()
        assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids[0].tolist()
        with torch.no_grad():
            assert (ours.module.float()(ids) - theirs.float()(ids).logits).abs().max() <= 1e-5


def test_the_same_call_again_repeats_nothing(done: tuple[Path, dict[str, Any]], real_files: Path) -> None:
    out, first = done
    before = {p: digest(p) for p in out.rglob("*.safetensors")}
    recorder = Recorder()
    again = run(real_files, out, recorder)
    assert {p: digest(p) for p in out.rglob("*.safetensors")} == before
    assert not {"pretrain", "adapt", "plan"} & set(recorder.stages)
    assert [s["value"] for s in again["scores"]] == [s["value"] for s in first["scores"]]


def test_changed_files_are_noticed(done: tuple[Path, dict[str, Any]], real_files: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--fresh"):
        run(tmp_path, done[0])


def test_files_that_changed_are_noticed_before_anything_is_replaced(done: tuple[Path, dict[str, Any]], real_files: Path,
                                                                    tmp_path: Path) -> None:
    files, out = tmp_path / "files", tmp_path / "out"
    copytree(real_files, files)
    copytree(done[0], out)
    state = read_json(out / "quickstart.json")
    (out / "quickstart.json").write_text(dumps({**state, "paths": [str(files)]}))
    corpus = read_json(out / "corpus" / "corpus.json")
    (out / "corpus" / "corpus.json").write_text(dumps({**corpus, "inputs": [str(files)]}))
    first = sorted(files.iterdir())[0]
    first.write_text(first.read_text() + "\nONE_LINE_MORE = 1\n")
    before = {p: digest(p) for p in out.rglob("*") if p.is_file() and p.name != "quickstart.json"}
    with pytest.raises(RequestError, match="have changed.*--fresh"):
        run(files, out)
    assert {p: digest(p) for p in out.rglob("*") if p.is_file() and p.name != "quickstart.json"} == before


def test_the_smallest_budget_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"--budget {SMALLEST:g}s"):
        quickstart([], tmp_path / "out", SMALLEST - 1)
    assert not (tmp_path / "out").exists()
