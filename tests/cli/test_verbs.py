"""The verbs on one tiny real run: each does its work, says it in JSON, and the files are there."""
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


def test_curate_says_what_it_kept(run, real_files: Path, corpus: Path) -> None:
    again = run("curate", real_files, "--out", corpus, "--json")
    assert again.status == 0 and again.json["corpus"] == str(corpus) and len(again.json["hash"]) == 32


def test_pretrain_leaves_a_run_folder(trained: Path) -> None:
    for name in ("recipe.json", "manifest.json", "log.jsonl", "result.json", "energy.json",
                 "model/config.json"):
        assert (trained / name).is_file(), name


def test_generate_is_a_function_of_its_seed(run, trained: Path) -> None:
    words = ["generate", trained, "def ", "--length", "8", "--json", "--seed"]
    texts = [run(*words, seed).json["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_chat_in_a_pipe(run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n\n/exit\nnever read\n"))
    result = run("chat", trained, "--length", "4", "--json")
    assert result.status == 0 and [t["prompt"] for t in result.json["turns"]] == ["def add(a, b):"]
    assert "does not converse" in result.err and result.out.startswith("def add(a, b):")


def test_adapt_evaluate_export_card(run, tiny: list[str], corpus: Path, trained: Path, tmp_path: Path) -> None:
    edits = [w for w in tiny if w.startswith("train.")]
    fill = tmp_path / "fill"
    words = ["function_bodies", f"data.corpus={corpus}", *edits, "train.steps=3", "--out", fill, "--json"]
    done = run("adapt", trained, *words)
    assert done.status == 0 and (fill / "adapter" / "adapter_config.json").is_file()
    assert run("generate", fill / "adapter", "def ", "--length", "3").status == 0      # its base is found from there
    words = ["--corpus", corpus, "--tasks", "bits_per_byte", "--against", trained, "--limit", "4", "--json"]
    scores = run("evaluate", fill, *words).json["scores"]
    assert scores and all(s["n"] and s["interval"] and s["paired"] for s in scores)
    assert (fill / "evals" / "bits_per_byte.json").is_file()
    exported = run("export", fill, "--to", "hf", "--out", tmp_path / "hf", "--json")
    assert exported.status == 0 and (tmp_path / "hf" / "model.safetensors").is_file()
    card = run("card", fill, "--json")
    assert card.status == 0 and Path(card.json["card"]).read_text().startswith("---")


def test_a_licence_that_forbids_release_stops_an_export(run, trained: Path, tmp_path: Path, monkeypatch) -> None:
    from meristem.govern import gate
    says = run("export", trained, "--out", tmp_path / "hf").out
    assert "licences of the training documents: " in says and (trained / "exports.jsonl").is_file()
    assert f"export hf in {tmp_path / 'hf'}" in run("verify", trained).out
    monkeypatch.setattr(gate, "_rule", lambda allow: lambda licence: False)
    line = run("export", trained, "--out", tmp_path / "other").complaint
    assert "forbid release: " in line and ".py (" in line and not (tmp_path / "other").exists()


def test_show_counts_what_a_row_of_a_model_of_pictures_takes(run) -> None:
    facts = run("show", "vit", "train.steps=2", "train.batch=3", "--json").json
    assert facts["rows"] == 6 and facts["training_flops"] == 6 * facts["flops_per_row"] > 1e6


def test_show_tells_where_values_come_from(run, tmp_path: Path) -> None:
    facts = run("show", "llama", "train.lr=0.5", "--json").json
    assert facts["recipe"]["train"]["lr"] == 0.5 and facts["parameters"] > 1e6
    origins = [facts["origins"][k] for k in ("train.lr", "train.steps", "train.clip")]
    assert origins == ["edit", "recipe llama", "default"]
    mine = tmp_path / "mine.yaml"
    mine.write_text(run("show", "llama", "train.lr=0.5", "--yaml").out)
    assert yaml.safe_load(mine.read_text())["train"]["lr"] == 0.5
    facts = run("show", mine, "--json").json
    assert facts["recipe"]["train"]["lr"] == 0.5 and facts["origins"]["train.lr"] == f"file {mine}"


def test_scientific_notation_in_a_yaml_file(run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {lr: 1e-3}\n")                      # PyYAML reads 1e-3 as a string
    assert run("show", mine, "--json").json["recipe"]["train"]["lr"] == 0.001


def test_ctrl_c_leaves_a_resumable_run(tiny: list[str], corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["pretrain", "llama", *tiny, f"data.corpus={corpus}", "train.steps=100000", "--out", str(folder)]
    child = subprocess.Popen([sys.executable, "-m", "meristem", *words], stderr=subprocess.PIPE, text=True)
    log, deadline = folder / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    resume = f"meristem pretrain --from {folder}"
    assert err.splitlines()[-1] == f"meristem: stopped and saved; the run is resumable: {resume}"
    assert "Traceback" not in err and any((folder / "checkpoints").iterdir())


def test_a_text_leads_to_the_documents_and_steps(run, trained: Path, corpus: Path) -> None:
    row = json.loads((corpus / "train.jsonl").read_text().splitlines()[0])
    result = run("trace", row["text"][:80], "--model", trained, "--json")
    span = result.json["spans"][0]
    assert result.status == 0 and len(span["text"]) >= 24 and span["places"][0]["licence"]
    assert "characters stand in the documents of base" in run("trace", row["text"][:80], "--model", trained).out
    assert "nothing of it of 24 characters" in run("trace", "zq" * 40, "--model", trained).out
    assert "there is no text" in run("trace", " ", "--model", trained).complaint


def test_every_hash_of_a_run_is_checked_and_a_broken_one_is_named(run, trained: Path, tmp_path: Path) -> None:
    assert "model files" in run("verify", trained).out
    assert all(link["ok"] for link in run("verify", trained, "--json").json["links"] if link["what"] != "corpus files")
    copy = shutil.copytree(trained, tmp_path / "copy")
    weights = copy / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    result = run("verify", copy)
    assert result.status == 1 and "model files (model.safetensors is damaged" in result.complaint
