"""Forecasts held to account: scored once a run, kept for the user, summed up."""
import json

import pytest

from meristem.plan import history

PLAN = {"nats_per_token": 2.0, "bits_per_byte": 1.0, "low": 0.9, "high": 1.1, "tokens": 1000, "tokens_per_second": 10.0,
        "memory": 2_000, "watt_hours": 1.0, "parameters": 5_000_000, "flops": 3e10, "law": "made up"}


def folder(path, validation: float, model: str = "aa"):
    path.mkdir(parents=True, exist_ok=True)
    (path / "plan.json").write_text(json.dumps(PLAN))
    (path / "result.json").write_text(json.dumps({"validation": validation, "train_seconds": 120.0, "peak_rss": 1_900,
                                                  "model": model}))
    (path / "energy.json").write_text(json.dumps({"joules": 7200.0}))
    return path


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def test_a_run_is_scored_and_kept_once(state) -> None:
    run = folder(state / "runs" / "mine", 2.15)
    row = history.settle(run)
    assert row["loss"] == {"forecast": 2.0, "low": 1.8, "high": 2.2, "measured": 2.15, "inside": True}
    assert row["seconds"] == {"forecast": 100.0, "measured": 120.0} and row["watt_hours"]["measured"] == 2.0
    assert json.loads((run / "forecast.json").read_text()) == row
    history.settle(run)
    folder(run, 2.5, "bb")
    history.settle(run)
    assert [r["loss"]["inside"] for r in history.read()] == [True, False], "another model is another line"
    assert history.summary(history.read()) == {"plans": 2, "inside": 1, "judged": 2, "measured_over_forecast": {
        "loss": 1.163, "seconds": 1.2, "memory": 0.95, "watt_hours": 2.0}}
    text = history.lines(history.read())
    assert "mine: 5 M parameters" in text[0] and "inside" in text[0] and "OUTSIDE" in text[1]
    assert text[-1] == "1 of 2 losses inside their 80 % intervals"


def test_what_is_not_there_is_not_scored(state) -> None:
    run = folder(state / "run", 2.0)
    (run / "plan.json").unlink()
    assert history.settle(run) is None and history.read() == [] and "no plan" in history.lines([])[0]
    history.place().parent.mkdir(parents=True)
    history.place().write_text('{"torn')
    assert history.read() == []
