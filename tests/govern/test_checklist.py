"""The release checklist: each point is open for its own reason, a finished run with a person's answers passes."""
import json
from pathlib import Path

import pytest

from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.govern import checklist, lineage

SAID = {key: f"a whole answer to {key}" for key in checklist.QUESTIONS}


def open_points(run: Path, said: dict[str, str] = SAID) -> list[str]:
    return [p.name for p in checklist.check(run, said) if not p.met]


def test_every_point_can_be_open_and_closed(quickstart: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = quickstart / "base"
    good = lineage.Link("all", "", True, "")
    monkeypatch.setattr(lineage, "links", lambda facts: [good])          # the fixture's hashes are invented
    before = open_points(run)
    assert "risks" in before and "licences" not in before and "scores" not in before
    write_json(run / "risk.json", {"asked": ["canaries"], "left_out": {"bbq": "no data"}})
    assert set(before) - set(open_points(run)) == {"risks"}
    assert any("bbq: no data" in p.found for p in checklist.check(run, SAID))
    assert open_points(run) == [] or set(open_points(run)) <= {"overlap with training"}
    assert {"intended use", "contact"} <= set(open_points(run, {**SAID, "intended_use": "n/a", "contact": ""}))
    monkeypatch.setattr(lineage, "links", lambda facts: [good, lineage.Link("model", "", False, "other")])
    assert "chain of hashes" in open_points(run)
    (run / "energy.json").unlink()
    (run / "result.json").unlink()
    assert {"energy", "training"} <= set(open_points(run))
    (quickstart / "corpus").rename(quickstart / "elsewhere")
    assert "licences" in open_points(run)
    for path in (run / "evals").glob("*.json"):
        path.unlink()
    assert {"scores", "overlap with training"} <= set(open_points(run))
    with pytest.raises(RequestError, match=r"points of the release checklist are open: training \(not finished; meris"):
        checklist.refuse(checklist.check(run, SAID))
    checklist.refuse([checklist.Point("one", True, "", "")])
    checklist.write([checklist.Point("one", True, "found", "")], tmp_path)
    assert read_json(tmp_path / checklist.FILE)["points"][0]["found"] == "found"


def test_a_question_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(json.dumps({"intendet_use": "x"}))
    with pytest.raises(RequestError, match="intended_use"):
        checklist.answers(path)
    path.write_text(json.dumps(SAID))
    assert checklist.answers(path) == SAID
