"""`meristem plan --model`: what a model takes on another machine."""
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
