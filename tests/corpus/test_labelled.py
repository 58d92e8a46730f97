"""Labelled rows become a corpus: every row once, checked, split by content, and told what is wrong with which line."""
import json

import pytest

from meristem.core.errors import RequestError
from meristem.corpus.labelled import is_labelled, labelled
from meristem.corpus.store import SPLITS, Corpus


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [{"text": f"text na\u00efve {n}", "label": ["good", "bad", 3][n % 3]} for n in range(200)]


def test_rows_of_one_file_are_split_by_their_content(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])
    assert is_labelled(path)
    corpus = labelled(path)
    assert corpus.folder == tmp_path / "rows.corpus" and not is_labelled(corpus.folder)
    assert corpus.summary["labels"] == ["3", "bad", "good"]
    assert corpus.summary["dropped"]["exact_duplicate"]["documents"] == 1
    found = {split: list(corpus.documents(split)) for split in SPLITS}
    assert sum(map(len, found.values())) == 200 and 8 < len(found["test"]) < 40 and 8 < len(found["validation"]) < 40
    pairs = {(d.text, d.fields["label"]) for some in found.values() for d in some}
    assert pairs == {(row["text"], str(row["label"])) for row in ROWS}
    assert found["train"][0].meta["path"].startswith("rows.jsonl:")
    again = labelled(write(tmp_path / "other.jsonl", ROWS[::-1]))
    assert {d.text for d in again.documents("test")} == {d.text for d in found["test"]}, "the order does not matter"
    assert "documents" in corpus.describe()


def test_a_second_call_reads_and_a_change_is_noticed(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    first = labelled(path)
    stamp = (first.folder / "corpus.json").stat().st_mtime_ns
    assert labelled(path).hash == first.hash and (first.folder / "corpus.json").stat().st_mtime_ns == stamp
    write(path, ROWS[:150])
    assert labelled(path).hash != first.hash
    assert Corpus.open(first.folder).summary["seen"]["documents"] == 150


def test_a_folder_keeps_its_own_splits_and_a_test_row_is_not_trained_on(tmp_path):
    write(tmp_path / "train.jsonl", ROWS[:100])
    write(tmp_path / "test.jsonl", ROWS[90:120])
    assert is_labelled(tmp_path)
    corpus = labelled(tmp_path, tmp_path / "out")
    test = [d.text for d in corpus.documents("test")]
    assert sorted(test) == sorted(row["text"] for row in ROWS[90:120])
    rest = [d.text for split in ("train", "validation") for d in corpus.documents(split)]
    assert sorted(rest) == sorted(row["text"] for row in ROWS[:90])


@pytest.mark.parametrize(("row", "message"), [
    ('{"text": "a"}', "label is missing"),
    ('{"label": "a"}', "text is missing"),
    ('["a", "b"]', "an object"),
    ('{"text": ', "Expecting value"),
    ('{"words": ["a"], "labels": []}', "equally many"),
    ('{"text": "abc", "question": "q", "answer": [1, 9]}', "first character"),
    ('{"text": "abc", "answer": [0, 1]}', "needs a question"),
])
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + row + "\n")
    with pytest.raises(RequestError, match=rf"rows.jsonl:3: .*{message}"):
        labelled(path)


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(RequestError, match="gives no rows for"):
        labelled(write(tmp_path / "rows.jsonl", ROWS[:1]))
