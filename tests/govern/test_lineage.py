"""The chain of hashes: whole when nothing was touched; each break is named."""

import shutil

import pytest

from meristem.core.files import committed, read_json, write_json
from meristem.govern import bom
from meristem.govern.lineage import exported, verify


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


def test_adapters_checkpoints_and_exports_are_links_too(quickstart, tmp_path):
    """An export is known by what the run noted when it was written; README.md may be written anew."""
    fill = quickstart / "fill"
    with committed(fill / "adapter") as folder:
        write_json(folder / "meristem.json", {"family": "llama", "base": "aa01"})
    with committed(fill / "checkpoints" / "step-4") as folder:
        (folder / "state").write_text("x")
    out = tmp_path / "hf"
    out.mkdir()
    (out / "model.safetensors").write_text("weights")
    exported(fill, out, "hf")
    (out / "README.md").write_text("a card")
    found = {link.what: link for link in verify(fill)}
    for what in ("adapter files", "base of the run and of its adapter", "checkpoint step-4", f"export hf in {out}"):
        assert found[what].ok is True, what
    (out / "model.safetensors").write_text("weighted")
    (fill / "adapter" / "meristem.json").write_text("{}")
    (fill / "checkpoints" / "step-4" / "state").write_text("y")
    assert {"adapter files", "checkpoint step-4", f"export hf in {out}"} <= set(broken(fill))
    shutil.rmtree(out)
    assert next(link for link in verify(fill) if link.what.startswith("export")).ok is None


def test_a_bill_of_materials_of_other_weights_is_found(quickstart):
    bom.write(quickstart / "base")
    assert next(link for link in verify(quickstart / "base") if link.what == "bill of materials").ok
    path = quickstart / "base" / "bom.json"
    path.write_text(path.read_text().replace('"version": "aa01"', '"version": "cc03"'))
    assert "bill of materials" in broken(quickstart / "base")
