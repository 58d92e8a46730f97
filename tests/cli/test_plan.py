"""`meristem plan --model`: what a model takes on another machine."""
import json

import pytest

from meristem.hub import hf
from tests.models import parity


def test_llama_2_70b_does_not_fit_24_gb_and_the_smallest_change_is_named(run) -> None:
    done = run("plan", "--model", "llama2-70b", "--memory", "24GB", "--json")
    assert done.status == 0 and done.json["best"].startswith("int4, ") and done.json["parameters"] == 68_976_648_192
    text = run("plan", "--model", "llama2-70b", "--memory", "24GB").out
    assert "bf16: 139.8 GB does not fit in 24.0 GB" in text and "smallest change that fits: int4, 37 of 80" in text


def test_llama_65b_took_20_8_days(run) -> None:
    done = run("plan", "--model", "llama-65b", "--hours", "1022362", "--devices", "2048", "--json")
    assert done.status == 0 and round(done.json["days"], 2) == 20.80


def test_a_folder_is_planned_for_as_well_as_a_name(run, tmp_path) -> None:
    config, module = parity.ours("llama", vocab=320, context=64, dim=64, layers=2, heads=4,
                                 scaling={"kind": "linear", "factor": 2.0})
    hf.save(tmp_path / "model", "llama", config, module)
    done = run("plan", "--model", str(tmp_path / "model"), "--memory", "1G", "--context", "128", "--json")
    assert done.status == 0 and done.json["best"] == "bf16"
    assert done.json["cache"] == 2 * 2 * 128 * 64 * 2          # k and v, layers, positions, width, bf16


@pytest.mark.parametrize(("words", "says"), [
    (["--model", "llama2-70"], "llama2-70b"), (["--model", "llama2-70b"], "--memory 24G"), ([], "--corpus FOLDER"),
    (["--model", "llama2-70b", "--memory", "lots"], "--memory 'lots' is not a number"),
    (["--model", "llama2-70b", "--memory", "24G", "--context", "-1"], "at least 1"),
    (["--model", "llama2-70b", "--hours", "10", "--devices", "0"], "--devices 0")])
def test_wrong_requests_are_one_line(run, words: list[str], says: str) -> None:
    done = run("plan", *words)
    assert done.status == 2 and says in done.complaint


def test_a_plan_is_trained_from_its_file_scored_and_remembered(run, tiny, corpus, tmp_path, monkeypatch) -> None:
    """The forecast is invented; what came of it is measured."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    recipe = run("show", "llama", *tiny, f"data.corpus={corpus}", "train.steps=3", "--json").json["recipe"]
    plan = {"run": recipe, "nats_per_token": 6.0, "bits_per_byte": 3.0, "low": 2.0, "high": 4.0, "tokens": 768,
            "tokens_per_second": 1000.0, "memory": 10**9, "watt_hours": 0.1, "parameters": 50_000}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = run("pretrain", tmp_path / "plan.json", "--out", tmp_path / "run")
    assert done.status == 0 and "loss 6.000 (4.000 to 8.000) forecast" in done.out
    found = json.loads((tmp_path / "run" / "forecast.json").read_text())
    assert found["loss"]["inside"] and found["seconds"]["measured"] > 0 and (tmp_path / "run" / "plan.json").is_file()
    history = run("plan", "--history", "--json").json
    assert history["inside"] == history["judged"] == history["plans"] == 1 and history["rows"] == [found]


def test_a_budget_on_named_devices(run) -> None:
    words = ["--budget", "1e19 FLOPs", "--device", "a100-sxm-80gb", "--devices", "2", "--price", "2", "--json"]
    done = run("plan", *words)
    assert done.status == 0 and done.json["mesh"] == "dp=2" and done.json["dollars"] > 0
    assert "did you mean h100-sxm" in run("plan", "--device", "h100-smx").complaint
    assert "is no budget" in run("plan", "--budget", "much", "--device", "t4").complaint
    assert "--price" in run("plan", "--budget", "$5", "--device", "t4").complaint


def test_what_training_takes_elsewhere(run) -> None:
    words = ["--model", "llama-7b", "--tokens", "1T", "--device", "a100-sxm-80gb", "--price", "2", "--json"]
    facts = run("plan", *words).json
    assert facts["hours"][1] < 82_432 < facts["hours"][2] and facts["dollars"][0] == 2 * facts["hours"][0]
    assert "--device one of" in run("plan", "--model", "llama-7b", "--tokens", "1T").complaint
