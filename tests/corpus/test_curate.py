"""Curation of real sources: every document accounted for, the same result in whatever order, bad input."""
import json
import os
import resource
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import Progress
from meristem.corpus import dedup, find, ngrams, read
from meristem.corpus.curate import curate
from meristem.corpus.store import SPLITS, Corpus

STDLIB = find.standard_library()[0]
FOLDERS = ["asyncio", "email", "json", "pydoc_data", "encodings"]


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Folders of the standard library, with a copy, an edited copy, and files that are no text."""
    root = tmp_path_factory.mktemp("raw") / "lib"
    for name in FOLDERS:
        shutil.copytree(STDLIB / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "asyncio" / "events.py", root / "copy.py")
    (root / "edited.py").write_text((root / "email" / "message.py").read_text().replace("payload", "load", 3))
    (root / "image").write_bytes(b"\x89PNG\0")
    (root / "latin.txt").write_bytes(b"caf\xe9")
    return root


@pytest.fixture(scope="module")
def corpus(raw, tmp_path_factory) -> Corpus:
    return curate([raw], tmp_path_factory.mktemp("out") / "corpus")


def ids_by_split(corpus: Corpus) -> dict[str, list[str]]:
    return {split: [d.id for d in corpus.documents(split)] for split in SPLITS}


def test_kept_and_dropped_are_the_input_as_multisets(raw, corpus):
    seen = Counter(("", item.path) if isinstance(item, read.Refusal) else (item.id, item.meta["path"])
                   for item in read.documents([raw]))
    assert Counter((row["id"], row["path"]) for row in corpus.ledger()) == seen
    kept = Counter(row["id"] for row in corpus.ledger() if row["verdict"] == "kept")
    assert kept == Counter(d.id for split in SPLITS for d in corpus.documents(split)) and max(kept.values()) == 1
    assert corpus.summary["seen"]["documents"] == seen.total()
    assert sum(d["documents"] for d in corpus.summary["dropped"].values()) + kept.total() == seen.total()


def test_every_drop_names_rule_value_and_a_witness_that_reproduces_it(raw, corpus):
    rows = {row["path"]: row for row in corpus.ledger()}
    texts = {d.id: d.text for d in read.documents([raw]) if not isinstance(d, read.Refusal)}
    kept = {row["id"] for row in rows.values() if row["verdict"] == "kept"}
    twins = [row for row in rows.values() if "witness" in row]
    for row in twins:
        a, b = (set(ngrams.hashes(texts[i], dedup.SHINGLE).tolist()) for i in (row["id"], row["witness"]))
        assert row["witness"] in kept and rows[row["witness_path"]]["id"] == row["witness"]
        assert row["value"] == round(len(a & b) / len(a | b), 4) >= dedup.THRESHOLD
    assert {"lib/copy.py", "lib/asyncio/events.py"} & {row["path"] for row in twins if row["rule"] == "exact_duplicate"}
    assert {"lib/edited.py", "lib/email/message.py"} & {row["path"] for row in twins if row["rule"] == "near_duplicate"}
    assert rows["lib/image"]["rule"] == "binary" and rows["lib/latin.txt"]["value"] == 3
    assert rows["lib/encodings/cp437.py"]["rule"] == "generated"


def test_documents_come_back_as_they_were_with_kind_path_and_licence(raw, corpus):
    for split in SPLITS:
        documents = list(corpus.documents(split))
        assert documents and [d.id for d in documents] == sorted(d.id for d in documents)
        for d in documents:
            if "#" not in d.meta["path"]:
                assert (raw.parent / d.meta["path"]).read_text(encoding="utf-8-sig") == d.text
    kinds = Counter(d.meta["kind"] for split in SPLITS for d in corpus.documents(split))
    assert kinds["code"] > 50 and kinds["prose"] > 30
    assert {k: v["documents"] for k, v in corpus.summary["kinds"].items()} == kinds


def test_the_result_depends_neither_on_names_nor_on_the_order_of_reading(raw, corpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for n, name in enumerate(reversed(FOLDERS)):
        shutil.copytree(raw / name, other / f"{n}" / name)
    for file in raw.iterdir():
        if file.is_file():
            shutil.copy(file, other / "0" / file.name)
    again = curate(sorted(other.iterdir(), reverse=True), tmp_path / "corpus")
    assert again.hash == corpus.hash and ids_by_split(again) == ids_by_split(corpus)


def test_it_describes_itself_in_one_line(corpus):
    text = corpus.describe()
    kept = sum(s["documents"] for s in corpus.summary["splits"].values())
    assert text.startswith(f"{kept} documents (") and f"kept of {corpus.summary['seen']['documents']} seen" in text
    assert "by generated" in text and "\n" not in text


def test_seed_moves_documents_between_splits_and_nothing_else(raw, corpus, tmp_path):
    other = curate([raw], tmp_path / "corpus", seed=1)
    assert other.hash != corpus.hash
    assert sorted(sum(ids_by_split(other).values(), [])) == sorted(sum(ids_by_split(corpus).values(), []))


def test_limit_keeps_a_sample_of_that_size_from_all_folders(raw, tmp_path):
    small, large = (curate([raw], tmp_path / str(n), limit_bytes=n) for n in (200_000, 400_000))
    sizes = [sum(s["bytes"] for s in c.summary["splits"].values()) for c in (small, large)]
    assert 100_000 < sizes[0] <= 200_000 < sizes[1] <= 400_000
    assert set(sum(ids_by_split(small).values(), [])) < set(sum(ids_by_split(large).values(), []))


def test_three_documents_are_enough_for_three_splits(tmp_path):
    for n, name in enumerate(["abc.py", "copyreg.py", "bisect.py"]):
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        shutil.copy(STDLIB / name, folder / f"{n}.py")
    assert [len(ids) for ids in ids_by_split(curate([folder], tmp_path / "out")).values()] == [1, 1, 1]


def test_the_same_request_is_answered_from_the_folder_and_changes_are_noticed(raw, tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(raw / "json", inputs)
    first = curate([inputs], out)
    stamp = (out / "train.jsonl").stat().st_ino
    heard = Heard()
    assert curate([inputs], out, progress=heard).hash == first.hash
    assert (out / "train.jsonl").stat().st_ino == stamp and "nothing has changed" in heard.lines[0]
    shutil.copy(STDLIB / "bisect.py", inputs)
    assert curate([inputs], out, progress=heard).hash != first.hash
    assert "have changed" in heard.lines[1]


def test_a_damaged_corpus_is_named_and_made_again(raw, tmp_path):
    out = tmp_path / "out"
    first = curate([raw / "json"], out)
    path = out / "train.jsonl"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(MachineError, match="train.jsonl is damaged"):
        Corpus.open(out)
    heard = Heard()
    assert curate([raw / "json"], out, progress=heard).hash == first.hash == Corpus.open(out).hash
    assert "train.jsonl is damaged" in heard.lines[0]


def test_an_out_folder_that_holds_something_else_is_left_alone(raw, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(RequestError, match="already holds something"):
        curate([raw / "json"], out)
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    curate([raw / "json"], tmp_path / "first")
    with pytest.raises(RequestError, match="already holds something"):
        curate([raw / "json"], tmp_path / "first", seed=1)
    with pytest.raises(RequestError, match="is not a corpus"):
        Corpus.open(out)


def test_out_inside_the_input_is_not_read(raw, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(raw / "json", folder / "src")
    first = curate([folder], folder / "runs")
    shutil.copy(STDLIB / "bisect.py", folder / "src")
    second = curate([folder], folder / "runs")
    assert not any("runs" in row["path"] for c in (first, second) for row in c.ledger())


@contextmanager
def small_disk(size: int):
    """No file may grow beyond `size` bytes in this process: the system itself fails the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_what_was_there(raw, tmp_path):
    out = tmp_path / "out"
    first = curate([raw / "json"], out)
    (raw / "json" / "new.py").write_text((STDLIB / "bisect.py").read_text())
    try:
        with small_disk(30_000), pytest.raises(MachineError, match="free some space"):
            curate([raw / "json"], out)
    finally:
        (raw / "json" / "new.py").unlink()
    assert Corpus.open(out).hash == first.hash
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@settings(deadline=None, max_examples=15)
@example([b"filedesc://", b"WARC/", b"WARC/1.0"])                # words that begin an archive, but no archive
@given(st.lists(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")) |
                st.sampled_from([(STDLIB / "bisect.py").read_bytes(), (STDLIB / "abc.py").read_bytes()]), max_size=8))
def test_whatever_lies_in_a_folder_every_file_is_accounted_for(contents):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "raw"
        folder.mkdir()
        for n, raw in enumerate(contents):
            (folder / f"{n}.py").write_bytes(raw)
        for module in ("copyreg", "keyword", "heapq", "queue"):
            shutil.copy(STDLIB / f"{module}.py", folder)
        rows = list(curate([folder], Path(name) / "out").ledger())
        assert Counter(row["path"] for row in rows) == Counter(f"raw/{p.name}" for p in folder.iterdir())
        assert all(row["verdict"] == "kept" or row["rule"] for row in rows)


def test_nothing_left_says_what_dropped_it(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.txt").write_bytes(b"" if n else b"\0")
    with pytest.raises(RequestError, match=r"0 documents of 4 are left.*3 by empty, 1 by binary"):
        curate([folder], tmp_path / "out")
    for n in range(4):
        (folder / f"{n}.txt").unlink()
        shutil.copy(STDLIB / "bisect.py", folder / f"{n}.py")
    with pytest.raises(RequestError, match=r"1 documents of 4 .*3 by exact_duplicate"):
        curate([folder], tmp_path / "out")
    with pytest.raises(RequestError, match="limit_bytes is -1"):
        curate([folder], tmp_path / "out", limit_bytes=-1)


def test_the_folder_is_plain_json_that_any_tool_reads(corpus):
    assert sorted(os.listdir(corpus.folder)) == sorted(
        ["MANIFEST.json", "corpus.json", "datasheet.md", "ledger.jsonl", *(f"{s}.jsonl" for s in SPLITS)])
    summary = json.loads((corpus.folder / "corpus.json").read_text())
    assert sum(s["documents"] for s in summary["splits"].values()) == sum(
        len((corpus.folder / f"{s}.jsonl").read_text().splitlines()) for s in SPLITS)


def test_an_unknown_split_is_an_error_with_the_nearest(corpus):
    with pytest.raises(RequestError, match="did you mean validation"):
        list(corpus.documents("valid"))
