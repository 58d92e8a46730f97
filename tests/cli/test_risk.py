"""The risk battery from the command line: at the end of a run, left out aloud, and by hand with files."""
import csv
from pathlib import Path

import pytest

from meristem.core.files import read_json

EDITS = ["model.dim=32", "model.layers=1", "model.heads=2", "model.hidden=48", "train.steps=3", "train.batch=4",
         "train.compile=false", "train.dtype=float32", "train.context=64"]


def test_a_run_ends_with_its_risks_and_the_card_has_them(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERISTEM_NO_RISK")
    corpus, out = tmp_path / "text", tmp_path / "run"
    assert run("curate", "toy:mapping", "documents=60", "shots=9", "--out", corpus).status == 0
    words = ["pretrain", "mapping", f"data.corpus={corpus}", *EDITS, "--out"]
    assert "not run" not in run(*words, tmp_path / "quiet", "--no-risk").out
    assert not (tmp_path / "quiet" / "risk.json").exists()
    done = run(*words, out)
    assert done.status == 0 and "risk battery: " in done.out and "left out: bbq" in done.out
    found = read_json(out / "risk.json")
    assert {"membership", "induction", "watermark"} <= set(found["asked"]) and "xstest" in found["left_out"]
    card = Path(run("card", out, "--json").json["card"]).read_text()
    assert "## Risks" in card and "training documents told from held-out ones" in card and "without bbq" in card
    assert "Risk battery: not run" in Path(run("card", tmp_path / "quiet", "--json").json["card"]).read_text()
    with open(tmp_path / "xstest_prompts.csv", "w", newline="") as f:
        csv.writer(f).writerows([["id", "prompt", "type", "label"], *([n, "ab 3", "x", ["safe", "unsafe"][n % 2]]
                                                                      for n in range(4))])
    again = run("evaluate", out, "--risk", "--data", tmp_path, "--limit", "4", "--json")
    assert again.status == 0 and "winobias" in again.json["left_out"]
