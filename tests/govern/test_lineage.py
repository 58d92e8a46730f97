"""The chain of hashes: whole when nothing was touched; each break is named."""

import pytest

from meristem.core.files import read_json, write_json
from meristem.govern.lineage import verify


def broken(folder):
    return [link.what for link in verify(folder) if link.ok is False]


def test_a_run_as_written_holds(quickstart):
    for name in ("base", "fill"):
        found = verify(quickstart / name)
        assert all(link.ok for link in found) and len(found) > 6


@pytest.mark.parametrize(
    ("path", "what"), [("base/model/model.safetensors", "model files"), ("corpus/ledger.jsonl", "corpus files")]
)
def test_one_flipped_bit_is_found(quickstart, path, what):
    raw = bytearray((quickstart / path).read_bytes())
    raw[0] ^= 1
    (quickstart / path).write_bytes(raw)
    assert broken(quickstart / "base") == [what]


def test_a_score_of_another_model_is_found(quickstart):
    path = quickstart / "base" / "evals" / "bits_per_byte.json"
    tree = read_json(path)
    tree["scores"][0]["model_hash"] = "cc03"
    write_json(path, tree)
    assert broken(quickstart / "base") == ["score bits_per_byte"]


def test_another_corpus_and_another_base_are_found(quickstart):
    path = quickstart / "fill" / "manifest.json"
    write_json(path, {**read_json(path), "corpus": "0", "base": "1"})
    assert {"corpus files", "corpus of the run and of its model", "base of the run and of its model"} <= set(
        broken(quickstart / "fill")
    )


def test_what_is_not_here_is_not_called_good(quickstart):
    (quickstart / "corpus").rename(quickstart / "elsewhere")
    [link] = [link for link in verify(quickstart / "base") if link.what == "corpus files"]
    assert link.ok is None and "not here" in link.why
