"""Undo is a union of sets, the ledger stays the input's, and the data sheet shows what each rule dropped."""
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.corpus import find, sheet
from meristem.corpus.curate import curate
from meristem.corpus.store import SPLITS, Corpus
from meristem.corpus.undo import undo

STDLIB = find.standard_library()[0]
STAGES = ("c4:sentences=1", "personal", "rules")


@pytest.fixture
def raw(tmp_path) -> Path:
    """Sources, pages with a bracket (one holds an address), one that two rules drop, copies and a file that is none."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("abc", "bisect", "copy", "heapq", "queue", "sched"):
        (folder / f"{name}.py").write_text((STDLIB / f"{name}.py").read_text())
    page = "The ferry number {} crosses the wide bay in forty minutes and it runs until nine. Dogs are free on it.\n"
    for n in range(6):
        (folder / f"{n}.txt").write_text(page.format(f"{n}{{") * 1 + f"Line {n * 77} of the harbour is closed today.\n"
                                         + ("Write to ann@example.org about this ferry today.\n" if n == 2 else ""))
    (folder / "short.txt").write_text("A {b} c.")
    (folder / "copy2.txt").write_text((folder / "1.txt").read_text())
    (folder / "none.txt").write_bytes(b"\0")
    return folder


def ids(corpus: Corpus) -> Counter:
    return Counter(d.id for split in SPLITS for d in corpus.documents(split))


def check(corpus: Corpus, raw: Path) -> None:
    """The ledger is the input, kept is the splits, and the summary counts both."""
    rows = list(corpus.ledger())
    assert Counter(row["path"] for row in rows) == Counter(f"raw/{p.name}" for p in raw.iterdir())
    kept = Counter(row["id"] for row in rows if row["verdict"] == "kept")
    assert kept == ids(corpus) and max(kept.values()) == 1
    assert sum(r["documents"] for r in corpus.summary["splits"].values()) == kept.total()
    assert sum(r["documents"] for r in corpus.summary["dropped"].values()) + kept.total() == len(rows)
    assert [(row["id"], row["path"]) for row in rows] == sorted((row["id"], row["path"]) for row in rows)


def test_undo_adds_what_the_rule_dropped_and_nothing_else(raw, tmp_path):
    before = curate([raw], tmp_path / "out", stages=STAGES)
    old, dropped = ids(before), {r["path"]: r for r in before.ledger() if r.get("rule") == "c4_bracket"}
    assert len(dropped) == 8
    after = undo(before, ["c4_bracket"])
    check(after, raw)
    assert old < ids(after) and after.hash != before.hash and after.summary["undone"] == ["c4_bracket"]
    rows = {row["path"]: row for row in after.ledger() if row["path"] in dropped}
    assert all(row["undone"] == "c4_bracket" for row in rows.values())
    assert Counter(row.get("rule", "kept") for row in rows.values()) == {"kept": 6, "exact_duplicate": 1, "size": 1}
    texts = {d.meta["path"]: d.text for split in SPLITS for d in after.documents(split)}
    assert "<EMAIL>" in texts["raw/2.txt"] and rows["raw/2.txt"]["was"] == dropped["raw/2.txt"]["id"]
    again = curate([raw], tmp_path / "out", stages=STAGES)     # the same command brings the rule back
    assert again.hash == before.hash and ids(again) == old


@pytest.mark.parametrize(("rule", "said"), [
    ("binary", "hold no document"), ("c4_brackets", "did you mean c4_bracket"), ("near_duplicate", "dropped nothing")])
def test_what_cannot_be_undone_says_why(raw, tmp_path, rule, said):
    corpus = curate([raw], tmp_path / "out", stages=STAGES)
    with pytest.raises(RequestError, match=said):
        undo(corpus, [rule])


def test_a_source_that_is_gone_is_counted_and_nothing_changes(raw, tmp_path):
    corpus = curate([raw], tmp_path / "out", stages=STAGES)
    (raw / "3.txt").write_text("Something else.")
    with pytest.raises(RequestError, match="1 of 8 documents cannot be read again"):
        undo(corpus, ["c4_bracket"])
    assert Corpus.open(corpus.folder).hash == corpus.hash


def test_the_data_sheet_shows_examples_and_nothing_in_them_is_markdown(raw, tmp_path):
    (raw / "odd.txt").write_text("# [x](http://y) `{`\n")
    corpus = curate([raw], tmp_path / "out", stages=STAGES)
    text = (corpus.folder / sheet.NAME).read_text()
    assert corpus.hash in text and "### c4_bracket: 9 documents" in text and "### binary: 1 documents" in text
    for rule, row in corpus.summary["dropped"].items():
        assert f"### {rule}: {row['documents']}" in text and corpus.summary["examples"][rule]
    assert "](http" not in text and "\n# [x]" not in text


LINES = ["the wide river carried nine boats to the harbour before winter came over the hills\n" * 3,
         "def area(self, width, height):\n    return width * height  # the whole of it\n" * 4, "x", "", "\0",
         "caf\udce9", "lorem ipsum dolor sit amet and so on it goes until the end of this line of text\n" * 2]


@settings(deadline=None, max_examples=12)
@given(st.lists(st.lists(st.sampled_from(LINES) | st.text(max_size=60), min_size=1, max_size=4), max_size=9))
def test_kept_and_dropped_are_the_input_as_a_multiset_of_hashes(tmp_path_factory, pages):
    folder = tmp_path_factory.mktemp("m") / "raw"
    folder.mkdir()
    rows = [json.dumps({"text": "".join(parts)}) for parts in pages]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    for name in ("copyreg", "abc", "heapq"):
        (folder / f"{name}.py").write_text((STDLIB / f"{name}.py").read_text())
    corpus = curate([folder], folder.parent / "out")
    from meristem.corpus import read
    seen = Counter(("", item.path) if isinstance(item, read.Refusal) else (item.id, item.meta["path"])
                   for item in read.documents([folder]))
    assert Counter((row["id"], row["path"]) for row in corpus.ledger()) == seen
