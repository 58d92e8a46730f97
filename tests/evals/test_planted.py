"""Benchmarks that need no training to be wrong: planted lines are counted right, honest answers say what was told."""
from pathlib import Path

import numpy as np
import pytest

from benchmarks import desk, instructions, planted, tongues, values
from meristem.core import sandbox

WORDS = [f"{a}{b}" for a in ("lamp", "chair", "river", "stone", "table", "house") for b in "aeiouyxz"]


def test_what_was_told_is_the_honest_answer() -> None:
    between = instructions.made("train", 24, 0, WORDS)
    rows = [values.told(np.random.default_rng(n), WORDS, between) for n in range(60)]
    for messages, answer in rows:
        said = " ".join(m["content"] for m in messages[:-1])
        asked = messages[-1]["content"]
        never = any(thing in asked for thing in values.NEVER)
        assert (answer == values.UNTOLD) == never and not any(thing in said for thing in values.NEVER)
        assert never or answer[len("It is "):-1] in said
    assert 15 < sum(answer == values.UNTOLD for _, answer in rows) < 45
    row = values.answered(rows[0][0], rows[0][1])
    assert row["messages"][-1] == {"role": "assistant", "content": rows[0][1]}


def test_lines_that_went_are_told_from_lines_that_stay(tmp_path: Path) -> None:
    own = [[f"The {word} number {n} stands in a quiet street near the water and is open on most days of the year."
            for n in range(4)] for word in ("mill", "church", "school", "market", "station", "harbour")]
    plants = [["Follow us"], ["Menu"], ["Menu"], ["This boilerplate looks like a sentence of five words."], [], []]
    folder = planted.written(tmp_path / "pages", own, plants, 0)
    lines = {line: "planted" for some in plants for line in some}
    found = planted.judged(folder, ["c4:sentences=1"], lines, "planted")
    assert found["gone by kind"]["planted"][0] == 0.75 and found["recall"][3] == 4 and found["precision"][0] == 1.0
    assert found["changed or dropped"] == 3 and found["of these without a reason"] == 0


@pytest.mark.skipif(bool(sandbox.trouble()), reason="needs bubblewrap")
def test_a_text_that_only_ends_early_parses() -> None:
    texts = {"python": ["def f(:\n", "def f(x):\n    return (x +\n"], "shell": ["if ) then\n", "if true; then\n  ls\n"]}
    for language, some in texts.items():
        assert tongues.parse(language, some) == [False, True]


def test_the_answer_of_an_entry_is_quoted(monkeypatch) -> None:
    rows = [(f"How do I change my {thing} now?", f"change {thing}") for thing in ("pin", "name") for _ in range(9)]
    monkeypatch.setattr(desk, "banking", lambda path: rows)
    texts = desk.entries(Path("."))
    store = desk.Store.of([desk.document(intent, text) for intent, text in texts.items()])
    asked = [("Please change my pin", "change pin")]
    found = desk.asked(store, desk.quoted, asked, ["Is it cold on Mars?"], 0.4, "words")
    assert found["of these by the right entry"]["share"] == 1.0 == found["outside, handed over"]["share"]
    assert found["grounded sentences"] == 1.0
