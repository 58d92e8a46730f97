"""Procedural text: the answers are right by an independent reckoning, the splits are apart, a seed names everything."""
import json
import re

import pytest

from meristem.core.errors import RequestError
from meristem.corpus import toy
from meristem.corpus.labelled import labelled
from meristem.corpus.store import SPLITS

FEW = {"documents": 60}


def lines(document) -> list[str]:
    assert document.text.endswith(f"{document.fields['input']}{document.fields['target']}\n")
    assert document.text == toy.text_of([*document.fields["shots"],
                                         (document.fields["input"], document.fields["target"])])
    return document.text.splitlines()


def test_a_mapping_is_a_function_and_another_one_in_every_document(tmp_path):
    corpus = toy.make("mapping", tmp_path / "m", {**FEW, "keys": 3, "labels": 5, "shots": 20})
    rules = []
    for document in corpus.documents("train"):
        rule: dict[str, str] = {}
        for line in lines(document):
            assert rule.setdefault(line[0], line[1:]) == line[1:] and line[0] in "abc" and line[1:] in "01234"
        rules.append(tuple(sorted(rule.items())))
        assert len(document.fields["shots"]) == 19 and document.licence == "CC0-1.0"
    assert len(rules) == 60 and len(set(rules)) > 30


def test_sums_are_right_and_no_problem_is_in_two_splits(tmp_path):
    corpus = toy.make("arithmetic", tmp_path / "a", FEW)
    asked = {split: {line for d in corpus.documents(split) for line in lines(d)} for split in SPLITS}
    for line in set().union(*asked.values()):
        a, sign, b, answer = re.fullmatch(r"(\d+)([+-])(\d+)=(-?\d+)", line).groups()
        assert int(answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
    problems = {split: {line.partition("=")[0] for line in some} for split, some in asked.items()}
    assert not problems["train"] & problems["test"] and not problems["train"] & problems["validation"]
    assert len(problems["train"]) > 1000 and len(problems["test"]) > 100


@pytest.mark.parametrize("length", [128, 700])
def test_a_needle_is_in_the_text_once_and_anywhere(tmp_path, length):
    corpus = toy.make("needle", tmp_path / "n", {**FEW, "length": length, "needles": 3})
    depths = []
    for split in SPLITS:
        for document in corpus.documents(split):
            lines(document)
            assert length - 40 < len(document.text) <= length, "filler up to a line of at most 35 characters"
            first = document.fields["shots"][0][0] if split == "train" else document.fields["input"]
            asked = [*document.fields["shots"], [document.fields["input"], document.fields["target"]]]
            assert len(asked) == (6 if split == "train" else 1)
            for question, code in asked:
                key = question[-1]
                assert re.findall(rf"^code {key}(\d+)\.$", first, re.MULTILINE) == [code]
                depths.append(first.index(f"code {key}{code}") / length)
    assert min(depths) < 0.1 and max(depths) > 0.45 and len({round(d, 1) for d in depths}) > 4


@pytest.mark.parametrize("length", [96, 300])
def test_copies_stand_above_behind_their_name_or_in_their_line(tmp_path, length):
    corpus, named = toy.make("copies", tmp_path / "c", {**FEW, "length": length}), 0
    cue = re.compile("(.+?)(" + "|".join(map(re.escape, toy.SIGNS)) + ")(.*)")
    for split in SPLITS:
        for document in corpus.documents(split):
            lines(document)
            asked = [*document.fields["shots"], [document.fields["input"], document.fields["target"]]]
            assert len(document.text) <= length and (len(asked) == 1 or split == "train")
            *table, _ = asked[0][0].split("\n")
            told = {name: value for name, _, value in (cue.fullmatch(line).groups() for line in table)}
            assert len(told) == len(table)
            named += bool(told)
            for question, answer in asked:
                name, _, rest = cue.fullmatch(question.split("\n")[-1]).groups()
                assert not rest and answer == (told[name] if told else name)
    assert 20 < named < 65


def test_a_corpus_is_a_function_of_its_fields_and_made_once(tmp_path):
    first = toy.make("mapping", tmp_path / "a", FEW)
    stamp = (first.folder / "corpus.json").stat().st_mtime_ns
    again = toy.make("mapping", tmp_path / "a", FEW)
    assert again.hash == first.hash and (again.folder / "corpus.json").stat().st_mtime_ns == stamp
    assert toy.make("mapping", tmp_path / "b", FEW).hash == first.hash
    assert toy.make("mapping", tmp_path / "c", {**FEW, "seed": 1}).hash != first.hash
    more = {d.id for d in toy.make("mapping", tmp_path / "d", {"documents": 90}).documents("train")}
    assert {d.id for d in first.documents("train")} < more, "more documents are these and others"
    with pytest.raises(RequestError, match="already holds"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("dear")
        toy.make("mapping", tmp_path / "mine", FEW)


@pytest.mark.parametrize(("kind", "fields", "says"), [
    ("mappings", {}, "did you mean mapping"), ("mapping", {"key": 3}, "did you mean keys"),
    ("mapping", {"keys": 27}, "1 to 26 keys"), ("needle", {"length": 50}, "at least 99"),
    ("arithmetic", {"digits": 0}, "1 to 9 digits")])
def test_what_cannot_be_made_is_refused(tmp_path, kind, fields, says):
    with pytest.raises(RequestError, match=says):
        toy.make(kind, tmp_path / "x", fields)
    assert not (tmp_path / "x").exists()


def test_worked_examples_of_a_file_are_checked(tmp_path):
    row = {"input": "c=", "target": "3", "shots": [["a=", "1"]], "text": "a=1\nc=3\n"}
    for wrong in ({"shots": "a=1"}, {"shots": [["a="]]}, {"shots": [["a=", 1]]}, {"text": "a=1\nc=4\n"}):
        (tmp_path / "rows.jsonl").write_text(json.dumps({**row, **wrong}))
        with pytest.raises(RequestError, match="shots is a list|text must end with"):
            labelled(tmp_path / "rows.jsonl")
