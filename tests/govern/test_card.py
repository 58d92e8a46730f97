"""The model card: front matter that huggingface.co can read, and every number from the run's files."""

import runpy

import pytest
import torch
import yaml

import meristem
from meristem.codecs import bpe
from meristem.core.config import to_dict
from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.core.run import Train
from meristem.govern import card
from meristem.hub import hf
from meristem.models.llama import Config, Model


def parts(folder):
    text = card.write(folder).read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter_holds_every_score(quickstart):
    head, _ = parts(quickstart / "fill")
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "text-generation"
    assert (
        head["base_model"] == "base"
        and head["tags"] == ["meristem", "llama", "lora"]
        and head["datasets"] == ["corpus"]
    )
    [result] = head["model-index"][0]["results"]
    found = {m["type"]: m["value"] for m in result["metrics"]}
    certificates = [s for p in (quickstart / "fill" / "evals").glob("*.json") for s in read_json(p)["scores"]]
    assert found == {s["name"]: s["value"] for s in certificates}


def test_body_holds_the_numbers_of_the_files(quickstart):
    _, body = parts(quickstart / "base")
    for fact in (
        "5,912,832",
        "PSF-2.0",
        "| near duplicate | 11 |",
        "Validation".lower(),
        "1.142",
        "1.082 to 1.202",
        "128 TFLOP",
        "3, 15",
        "Risk battery: not run",
        "1.2 Wh (0.48 to 3)",
        "AMD EPYC",
        "trained from scratch",
    ):
        assert fact in body, fact
    changed = quickstart / "base" / "result.json"
    write_json(changed, {**read_json(changed), "validation": 1.2345})
    assert "1.234" in parts(quickstart / "base")[1]


def test_samples_cannot_leave_their_block():
    text = "before\n```\n# not a heading\n````\n<script>"
    block = card.fenced(text)
    assert block.startswith("`````text\n") and block.endswith("`````\n") and "`````" not in text


def test_an_unfinished_run_has_no_card(quickstart):
    (quickstart / "base" / "model" / "config.json").unlink()
    with pytest.raises(RequestError, match="not a run folder with a model"):
        card.write(quickstart / "base")
    with pytest.raises(RequestError, match="one model"):
        card.write(quickstart)


def test_the_transformers_snippet_gives_our_text(quickstart, tmp_path, capsys):
    """The card's block is run: the same greedy tokens as meristem, which begins every text after an end token."""
    code = card.write(quickstart / "base").read_text(encoding="utf-8").split("```python\n")[2].split("```")[0]
    codec = bpe.fit(["def add(a, b):\n    return a + b\n" * 9], 300)
    torch.manual_seed(0)
    module = Model(Config(vocab=codec.vocab, context=128, dim=32, layers=2, heads=4))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    hf.save(tmp_path / "model", "llama", module.config, module, codec)
    capsys.readouterr()
    runpy.run_path(str(write(tmp_path / "snippet.py", code.replace("path/to/this/folder", str(tmp_path / "model")))))
    ours = meristem.load(tmp_path / "model").generate("def ", length=64, temperature=0.0)
    assert capsys.readouterr().out == f"def {ours}\n" and len(ours) > 5


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(("train", "says"), [
    (Train(optimizer="schedule_free"), ("an average of the iterates stands in for a schedule", "schedule-free keeps")),
    (Train(schedule="wsd", decay=0.6, floor=0.02), ("0.02 of it over the last 60% of the steps (wsd)", "last step |")),
    (Train(ema=0.99), ("along a cosine", "an exponential average of all steps (decay 0.99)")),
    (Train(ema=0.99, weights="last"), ("along a cosine", "last step; an average (decay 0.99) was kept too"))])
def test_schedules_and_averages_are_told_as_they_were(quickstart, train, says):
    path = quickstart / "base" / "recipe.json"
    write_json(path, {**read_json(path), "train": to_dict(train)})
    _, body = parts(quickstart / "base")
    assert all(words in body for words in says) and "betas 0.9 and 0.95" in body
    assert train.optimizer != "schedule_free" or "cosine" not in body


def test_a_model_of_pictures_is_no_text_generator(quickstart):
    path = quickstart / "base" / "recipe.json"
    write_json(path, {**read_json(path), "objective": {"name": "segment", "fields": {"points": 3}}})
    head, body = parts(quickstart / "base")
    assert head["pipeline_tag"] == "mask-generation" and "A segmenter of the llama family" in body
    assert "segment: points 3" in body and "AutoModelForCausalLM" not in body


def test_the_forecast_stands_beside_the_outcome(quickstart):
    write_json(quickstart / "base" / "forecast.json", {
        "loss": {"forecast": 2.02, "low": 1.9, "high": 2.2, "measured": 1.98, "inside": True},
        **{key: {"forecast": 100.0, "measured": 110.0} for key in ("seconds", "memory", "watt_hours")}})
    body = parts(quickstart / "base")[1]
    assert "| loss, nats a token | 2.020 (1.900 to 2.200 with 80 %) | 1.980, inside |" in body
    assert "| seconds of steps | 1 min 40 s | 1 min 50 s |" in body
