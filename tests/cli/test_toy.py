"""Procedural text from the command line: made, trained on, asked with worked examples, read beyond the context."""
from pathlib import Path

import pytest

EDITS = ["model.dim=32", "model.layers=1", "model.heads=2", "model.hidden=48", "train.steps=4", "train.batch=4",
         "train.compile=false", "train.dtype=float32"]


@pytest.fixture
def corpus(run, tmp_path: Path) -> Path:
    made = run("curate", "toy:mapping", "documents=60", "shots=9", "--out", tmp_path / "text", "--seed", "3", "--json")
    assert made.status == 0 and made.json["splits"]["train"]["documents"] == 60
    return tmp_path / "text"


def test_from_nothing_to_a_certificate(run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("pretrain", "mapping", f"data.corpus={corpus}", *EDITS, "--out", out).status == 0
    ask = ["evaluate", out, "--corpus", corpus, "--tasks", "exact_answer", "--json"]
    [score] = run(*ask, "--shots", "4").json["scores"]
    assert score["n"] == 6 and score["shots"] == ["#0", "#1", "#2", "#3"] and score["baseline"]
    assert (out / "evals" / "exact_answer-4-shot.json").is_file()
    rows = corpus.with_name("text.rows")                       # the rows themselves are a corpus too
    [same] = run("evaluate", out, "--corpus", rows, *ask[4:]).json["scores"]
    assert same["n"] == 6 and same["shots"] == [] and same["model_hash"] == score["model_hash"]
    [far] = run(*ask, "--stretch", "yarn:4").json["scores"]
    assert far["model_hash"] != score["model_hash"] and far["corpus_hash"] == score["corpus_hash"]
    assert "asked for and the documents have 8" in run(*ask, "--shots", "9").complaint
    assert "write yarn:4" in run(*ask, "--stretch", "yarn").complaint


def test_a_kind_or_field_that_there_is_not(run, tmp_path: Path) -> None:
    for words, says in ((["toy:mappin"], "did you mean mapping"), (["toy:mapping", "key=3"], "did you mean keys")):
        refused = run("curate", *words, "--out", tmp_path / "x")
        assert refused.status == 2 and says in refused.complaint
