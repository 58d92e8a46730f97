"""What the benchmarks of small models count, without training one: forms, names, rewritten sentences, spam, recall."""
import numpy as np
import pytest

from benchmarks import assistant, instructions, labels, language, rewriting

WORDS = [f"{a}{b}" for a in ("lamp", "chair", "river", "stone", "table", "house", "gard", "bottl") for b in "aeiouyxz"]


def test_every_instruction_accepts_its_answer_and_refuses_another() -> None:
    train, test = (instructions.made(split, 120, 0, WORDS) for split in ("train", "test"))
    assert all(a.right(f" {a.answer}\n") for a in (*train, *test))
    assert not any(a.right("") or a.right("I do not know.") or a.right(a.asked) for a in (*train, *test))
    other = {a.kind: a.answer for a in train}
    wrong = [a.right(other[kind]) for a in test for kind in instructions.KINDS if kind != a.kind]
    assert np.mean(wrong) < 0.01
    held, known = ({w for w in WORDS if instructions.is_test(w) == test} for test in (True, False))
    assert not any(w in a.asked.split() for a in train for w in held) and held and known
    phrasings = {a.asked for a in train} & {a.asked for a in test}
    assert not phrasings and sum(a.new for a in test) == 60 and not any(a.new for a in train)


def test_a_fact_is_told_as_many_turns_back_as_is_said() -> None:
    between = instructions.made("train", 24, 0, WORDS)
    for back in assistant.TURNS:
        messages, value, every = assistant.conversation(np.random.default_rng(back), WORDS, between, back)
        asked = [m["content"] for m in messages if m["role"] == "user"]
        assert value in asked[-1 - back] and not any(value in text for text in asked[-back:])
        assert len(asked) == 5 and set(every) >= {value} and len(every) == 3 and messages[-1]["role"] == "user"


def test_names_are_counted_whole() -> None:
    labels_of = ["B-PERSON", "I-PERSON", "O", "B-PLACE", "B-FIRM", "I-PLACE"]
    assert language.spans(labels_of) == {(0, 2, "PERSON"), (3, 4, "PLACE"), (4, 5, "FIRM"), (5, 6, "PLACE")}
    words, said = language.tagged(np.random.default_rng(0), language.KNOWN, False)
    rows = [(words, said)] * 4
    assert language.f1(rows, [said] * 4, 0)["f1"] == 1.0 and language.f1(rows, [["O"] * len(words)] * 4, 0)["f1"] == 0.0
    half = ["O" if label.startswith("I-") else label for label in ["B-PERSON", "I-PERSON", "B-PLACE"]]
    assert language.f1([(["A", "B", "C"], ["B-PERSON", "I-PERSON", "B-PLACE"])], [half], 0)["f1"] == 0.5
    test = {language.name_of(np.random.default_rng(n), True) for n in range(200)}
    assert not test & {language.name_of(np.random.default_rng(n), False) for n in range(200)}


def test_sentences_are_rewritten_and_judged() -> None:
    train, test = (rewriting.made(split, 60) for split in ("train", "test"))
    assert not {a for rows in train.values() for a, _ in rows} & {a for rows in test.values() for a, _ in rows}
    back = dict(test["passive"])
    assert all(back[b] == a for a, b in test["active"]), "active undoes passive"
    assert all(rewriting.kept(b, a) == 1.0 for rows in (test["passive"], test["formal"]) for a, b in rows)
    assert rewriting.kept("the dog sees the cat", "the dog sees the bird") == pytest.approx(2 / 3)
    same = [rewriting.word_by_word(a).split() for a, _ in test["translate"]]
    right = [b.split() for _, b in test["translate"]]
    assert np.mean([len(a) == len(b) for a, b in zip(same, right, strict=True)]) == 1.0
    assert np.mean([a == b for a, b in zip(same, right, strict=True)]) < 0.2
    assert rewriting.words("def _read_file2(self):") == ["def", "read", "file", "2", "self"]


def test_spam_of_the_test_has_templates_of_its_own() -> None:
    rng = np.random.default_rng(0)
    known, new = ([labels.spam_mail(rng, which) for _ in range(50)] for which in (False, True))
    begins = {text.split()[0] for text in labels.OPENERS}
    assert sum(text.split()[0] in begins for text in known) == 50
    assert not any("{" in text for text in (*known, *new)) and len(set(new)) > 40
