"""What the benchmarks of trades, places and several tasks count: quoted sentences, hints, names, points."""
from pathlib import Path

import pytest

from benchmarks import image_text, senses, trades
from meristem.corpus import toy
from meristem.generate.retrieve.answer import ask
from meristem.generate.retrieve.store import Store


def test_the_sentence_that_speaks_of_the_question_is_quoted_and_cited() -> None:
    pytest.importorskip("bm25s")
    store = Store.of([trades.document("mill", "The mill stands by a brook. The rent of the mill is forty shillings."),
                      trades.document("bees", "The hive stands by a wall. A hive holds one queen.")])
    made = ask("How much is the rent of the mill?", store, trades.quoting(store))
    assert made.text == "The rent of the mill is forty shillings. [1]" and made.cited[1].source == "mill"
    assert ask("Who won the battle of Zorblax?", store, trades.quoting(store)).refused


def test_hints_lead_to_the_sum() -> None:
    assert toy.hints(237, 185) == [("237+185 hint 1:", "7+5=12"), ("237+185 hint 2:", "3+8+1=12"),
                                   ("237+185 hint 3:", "2+1+1=4")]
    for a, b in ((237, 185), (999, 1), (500, 500)):
        columns = [answer for _, answer in toy.hints(a, int(str(b).zfill(3)) if b > 99 else b + 100)]
        total = a + (b if b > 99 else b + 100)
        digits = [int(one.split("=")[1]) for one in columns]
        assert total == sum(d % 10 * 10**n for n, d in enumerate(digits[:-1])) + digits[-1] * 100


def test_tutors_of_training_leave_hints_out(tmp_path: Path) -> None:
    corpus = toy.make("tutor", tmp_path / "t", {"documents": 80})
    shown = {split: {len(d.fields["shots"]) for d in corpus.documents(split)} for split in ("train", "test")}
    assert shown == {"train": {0, 1, 2, 3}, "test": {3}}
    sums = {split: {d.fields["input"] for d in corpus.documents(split)} for split in ("train", "test")}
    assert not sums["train"] & sums["test"]


def test_a_place_has_one_name_in_files_and_in_tables() -> None:
    for file, name in (("saint_lucia", "St. Lucia"), ("cote_divoire", "C\u00f4te d\u2019Ivoire"),
                       ("congo_kinshasa", "Congo - Kinshasa"), ("myanmar", "Myanmar (Burma)"),
                       ("trinidad_and_tobago", "Trinidad & Tobago")):
        assert image_text.plain(file) == image_text.plain(name)
    assert image_text.plain("niger") != image_text.plain("Nigeria")


def test_one_model_is_put_beside_its_specialists(tmp_path: Path) -> None:
    bench = senses.Bench(tmp_path, tmp_path, 1.0, True)
    bench.found |= {"four/visual_sort": {"value": 0.9}, "four-sort/visual_answers": {"value": 0.925}}
    bench.beside("four", ["sort"])
    assert bench.found["four/sort beside its specialist"]["points"] == -2.5
