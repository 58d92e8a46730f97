"""The options of `meristem generate`, and that chat shows text as it appears."""
import io
import json
import re
import sys
from pathlib import Path
from statistics import NormalDist

import pytest
import torch

from meristem.codecs import bpe, chat
from meristem.generate.agents.loop import Trace
from meristem.generate.watermark import Key
from meristem.hub import hf
from meristem.models.llama import Config, Model


def test_options_reach_the_model(run, trained: Path) -> None:
    words = ["generate", trained, "def ", "--length", "24", "--json"]
    plain = run(*words).json
    assert plain["reason"] in ("stop", "length") and plain["tokens"] <= 24
    stop = next(plain["text"][i:i + 2] for i in range(2, 20) if plain["text"][i:i + 2].isprintable())
    cut = run(*words, "--stop", "never seen", "--stop", stop).json
    assert cut["text"] == plain["text"].split(stop)[0] and cut["reason"] == "stop"
    greedy = run(*words, "--temperature", "0").json
    for more in (["--ahead", "3"], ["--draft", trained], ["--top-k", "1", "--temperature", "0.5"]):
        again = run(*words, *(["--temperature", "0"] if more[0] != "--top-k" else []), *more).json
        assert again["text"] == greedy["text"]
    for more in (["--min-p", "1.0"], ["--repetition-penalty", "3"], ["--frequency-penalty", "9"],
                 ["--presence-penalty", "9"], ["--no-repeat-ngram", "1"], ["--beams", "3"], ["--temperature", "1.7"]):
        assert run(*words, *more).json["text"] != plain["text"], more


def test_a_watermark_is_written_and_found_with_its_key(run, trained: Path) -> None:
    words = ["generate", trained, "def ", "--length", "48", "--temperature", "1", "--top-p", "1", "--json"]
    plain, marked = run(*words).json, run(*words, "--watermark", "secret").json
    assert "watermark" not in plain and marked["text"] != plain["text"]
    assert marked["watermark"]["z"] > 4 and marked["watermark"]["pairs"] > 30
    for key in ("secret", "another"):
        facts = run("trace", marked["text"], "--model", trained, "--watermark", key, "--json").json
        loaded = hf.load(trained / "model")
        found = Key(key, loaded.config.vocab).found(loaded.codec.encode(marked["text"]))
        assert (facts["z"], facts["pairs"]) == (found.z, found.tokens)
        assert facts["chance"] == pytest.approx(1 - NormalDist().cdf(found.z), abs=1e-9)
    masks = run("generate", trained, "--segment", "a.png", "--watermark", "secret")
    assert "--watermark has no meaning" in masks.complaint


def test_logprobs_are_listed(run, trained: Path) -> None:
    facts = run("generate", trained, "def ", "--length", "5", "--temperature", "0", "--logprobs", "2", "--json").json
    assert all(len(one["top"]) == 2 and one["top"][0] == [one["token"], one["logprob"]] for one in facts["logprobs"])
    assert len(facts["logprobs"]) == facts["tokens"]


def test_grammars(run, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    made = run("generate", trained, "x = ", "--regex", "[a-z]{3,8} = [0-9]{1,2}", "--length", "30", "--json")
    assert made.status == 0, made.err
    text = made.json["text"]
    assert re.fullmatch("[a-z]{3,8} = [0-9]{1,2}", text)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
                                  "additionalProperties": False}))
    made = run("generate", trained, "x", "--schema", schema, "--length", "30", "--json")
    assert json.loads(made.json["text"])["a"] in (1, 2)
    cut = run("generate", trained, "x", "--schema", schema, "--length", "2")
    assert cut.status == 2 and "ask for a greater length" in cut.complaint


@pytest.mark.parametrize(("words", "line"), [
    (["--beams", "2", "--temperature", "1"], "set temperature 0"),
    (["--regex", "[a"], "regular expression cannot be used"), (["--repetition-penalty", "0"], "repetition_penalty 0"),
    (["--schema", "nowhere.json"], "nowhere.json does not exist"),
    (["--draft", "nowhere"], "nowhere"), (["--length", "4000"], "exceed the model's context"),
    (["--edit", "nowhere.png"], "writes text"), (["--click", "1,2"], "--click has no meaning"),
    (["--out", "a.png", "--beams", "2"], "paints, where --beams"), (["--out", "a.wav", "--count", "2", "--steps", "3"],
                                                                     "writes sounds, where --steps"),
    (["--segment", "a.png"], "makes masks, where the prompt"),
])
def test_wrong_options_are_one_line(run, trained: Path, words: list[str], line: str) -> None:
    pytest.importorskip("llguidance")
    result = run("generate", trained, "def ", *words)
    assert result.status == 2 and line in result.complaint


def test_chat_shows_pieces_as_they_come(run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", Pieces(written))
    assert run("chat", trained, "--length", "12").status == 0
    assert written[0] == "def add(a, b):" and len([w for w in written if w.strip()]) > 3


class Pieces(io.StringIO):
    """Standard output that remembers each write."""

    def __init__(self, written: list[str]):
        super().__init__()
        self.written = written

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


def test_export_quantises_and_generate_reads_it(run, trained: Path, tmp_path: Path) -> None:
    made = run("export", trained, "--out", tmp_path / "q", "--bits", "4", "--json")
    assert made.status == 0, made.err
    assert made.json["max_difference"] == 0.0 and made.json["bits"] == 4
    size = [(folder / "model.safetensors").stat().st_size for folder in (trained / "model", tmp_path / "q")]
    assert size[1] < 0.75 * size[0]                            # half of this model is its table, which stays as it is
    assert run("generate", tmp_path / "q", "def ", "--length", "4").status == 0
    assert "8 or 4 bits" in run("export", trained, "--out", tmp_path / "n", "--bits", "5").complaint


def test_chat_answers_from_documents(run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    pytest.importorskip("bm25s")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("def f(): 1")
    words = ["chat", trained, "--length", "2", "--documents", tmp_path / "notes", "--json"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("who won at Zorblax?\n"))
    made = run(*words, "--encoder", trained)
    assert made.status == 0, made.err
    assert "The documents do not say." in made.out and made.json["turns"][0]["refused"] and made.json["passages"] == 1
    assert "give --documents" in run("chat", trained, "--encoder", trained).complaint
    assert "did you mean calculator" in run("chat", trained, "--tool", "calculater").complaint
    assert "needs a model with a chat template" in run("chat", trained, "--tool", "calculator").complaint


def test_chat_calls_tools_and_keeps_the_record(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    torch.manual_seed(0)
    codec = bpe.fit(["what is two and two? four\n" * 9], 300, chat.CHATML_TOKENS)
    module = Model(Config(vocab=codec.vocab, context=900, dim=32, layers=1, heads=2))
    hf.save(tmp_path / "m", "llama", module.config, module, codec, chat=chat.usual(codec))
    monkeypatch.setattr(sys, "stdin", io.StringIO("two?\n\ntwo?\n"))
    made = run("chat", tmp_path / "m", "--tool", "calculator", "--length", "8", "--traces", tmp_path / "t", "--json")
    assert made.status == 0, made.err
    turns = made.json["turns"]
    assert len(turns) == 2 and all(turn["status"] in ("answered", "steps") for turn in turns)
    assert [p.name for p in sorted((tmp_path / "t").iterdir())] == ["1.jsonl", "2.jsonl"]
    kept = Trace.load(tmp_path / "t" / "2.jsonl")
    assert kept.answer == turns[1]["text"] and len(kept.entries[0]["messages"]) >= 3   # the conversation goes on
