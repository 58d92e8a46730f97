"""Benchmarks from files: rows become the right items, answers the right scores, and a missing file says where to go."""
import gzip
import io
import json
import tarfile
import zipfile
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from meristem.codecs import char
from meristem.core import sandbox
from meristem.core.errors import RequestError
from meristem.core.progress import SILENT
from meristem.evals import benchmark, files, perturb, words
from meristem.evals.run import task_of
from meristem.evals.tasks.bfcl import accepts

QUESTION = "What do bees make out of the nectar that they bring home?"


def gz(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as f:
        f.write(text.encode())


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A little of every benchmark, in the authors' forms."""
    root = tmp_path_factory.mktemp("data")
    gz(root / "piqa" / "valid.jsonl.gz", lines({"goal": "To open a jar", "sol1": "twist it", "sol2": "eat it"}))
    (root / "piqa" / "valid-labels.lst").write_text("0\n")
    tar(root / "blimp" / "paradigms.tar.gz", {"a.jsonl": lines(
        {"pairID": "0", "sentence_good": "He sees himself.", "sentence_bad": "He sees herself."})})
    lora = {"instruction": f"Please choose the correct answer to the question: {QUESTION}\n\nAnswer1: honey Answer2: "
                           "gold Answer3: salt\n\nAnswer format: answer1/answer2/answer3", "answer": "answer1"}
    own = {"question": {"stem": QUESTION, "choices": [{"text": "gold", "label": "A"}, {"text": "honey", "label": "B"}]},
           "answerKey": "B"}
    gz(root / "commonsense-mc" / "ARC-Easy.test.json.gz", json.dumps([lora]))
    gz(root / "commonsense-mc" / "ARC-Challenge-Test.jsonl.gz", lines(own))
    gz(root / "commonsense-mc" / "ARC-Challenge-Train.jsonl.gz", lines(own, own))
    gz(root / "commonsense-mc" / "winogrande.test.json.gz", json.dumps([{
        "instruction": "Please choose the correct answer to fill in the blank to complete the given sentence: Ann "
                       "paid Eve because _ had worked.\n\nOption1: Ann Option2: Eve Answer format: option1/option2",
        "answer": "option2"}]))
    gz(root / "boolq" / "dev.jsonl.gz", lines({"question": "is ice cold", "passage": "Ice.", "answer": True}))
    (root / "aqua").mkdir()
    (root / "aqua" / "test.json").write_text(lines({"question": "What number is 1 + 1?", "options": ["A)1", "B)2"],
                                                    "correct": "B"}))
    with zipfile.ZipFile(root / "sentence_polarity.zip", "w") as archive:
        for side in ("neg", "pos"):
            archive.writestr(f"rt-polarity.{side}", "".join(f"a {side} film number {n} \n" for n in range(30)))
    (root / "banking77").mkdir()
    for split in ("test", "train"):
        (root / "banking77" / f"{split}.csv").write_text("text,category\nwhere is it,card_arrival\nhelp,age_limit\n")
    gz(root / "clinc150" / "data_full.json.gz", json.dumps(
        {"test": [["hello there", "greeting"], ["farewell", "goodbye"]] * 4, "train": [["hey", "greeting"]],
         "oos_test": [["what is the moon made of", "oos"]] * 3}))
    tar(root / "bbh" / "bbh.tar.gz", {
        "bbh/navigate.json": json.dumps({"examples": [{"input": "Left or right?", "target": "No"}]}),
        "cot-prompts/navigate.txt": "canary\n-----\nSay it.\n\nQ: a?\nA: So the answer is Yes.\n\nQ: b?\nA: No.\n"})
    gz(root / "xquad" / "xquad.en.json.gz", json.dumps({"data": [{"paragraphs": [{
        "context": "Rome was built in many days.", "qas": [{"question": "What was built?", "answers": [
            {"text": "Rome"}]}]}]}]}))
    gz(root / "nq_open" / "NQ-open.dev.jsonl.gz", lines({"question": "who wrote that", "answer": ["The Cat", "Tom"]}))
    gz(root / "scitldr" / "test.jsonl.gz", lines({"source": ["We do a.", "It works."], "target": ["A works.", "a"]}))
    for name, text in (("eng_Latn", "Good day\nThank you\n"), ("deu_Latn", "Guten Tag\nDanke\n")):
        gz(root / "flores" / f"{name}.devtest.gz", text)
    gz(root / "gsm8k" / "test.jsonl.gz", lines({
        "question": "Ann has 12 eggs and eats 4 of them. She sells the rest for 3 dollars each. How much is that?",
        "answer": "She sells 12 - 4 = <<12-4=8>>8.\nThat is 8 * 3 = <<8*3=24>>24.\n#### 24"}))
    gz(root / "svamp" / "SVAMP.json.gz", json.dumps([
        {"ID": str(n), "Body": "A pack costs 76 dollars. There is a discount of 25 dollars", "Question": "How much?",
         "Equation": "( 76.0 - 25.0 )", "Answer": 51.0} for n in range(6)]))
    function = {"name": "area", "parameters": {}}
    for part, request in (("simple_python", "area of 3 by 4"), ("multiple", "some area"), ("parallel", "both areas"),
                          ("irrelevance", "sing")):
        gz(root / "bfcl" / f"BFCL_v4_{part}.json.gz", lines(
            {"id": part, "question": [[{"role": "user", "content": request}]], "function": [function]}))
        gz(root / "bfcl" / "possible_answer" / f"BFCL_v4_{part}.json.gz", lines(
            {"id": part, "ground_truth": [{"area": {"a": [3], "b": [4], "unit": ["cm", ""]}}]}))
    gz(root / "tau-retail" / "few_shot.jsonl.gz", lines(*({"messages_display": f"user: hi {n}\nassistant: hello {n}\n"
                                                          f"user: bye\nassistant: see you {n}"} for n in range(3))))
    return root


@pytest.mark.parametrize(("name", "count", "answer"), [
    ("piqa", 1, "twist it"), ("blimp", 1, "He sees himself."), ("arc_easy", 1, "honey"), ("arc_challenge", 1, "honey"),
    ("winogrande", 1, "had worked."), ("boolq", 1, "yes"), ("aqua", 1, "2"), ("banking77", 2, "card arrival"),
    ("clinc150", 10, "greeting"), ("bbh", 1, "No"), ("xquad", 1, "Rome"), ("nq_open", 1, "The Cat"),
    ("scitldr", 1, "A works."), ("flores", 2, "Guten Tag"), ("svamp", 4, "51"),
    ("bfcl", 4, "area(a=3, b=4, unit='cm')"), ("tau_retail", 6, "hello 0")])
def test_rows_become_items(data, name, count, answer):
    task = task_of(name, data)
    items = task.items(None, None, 100, 0)
    assert len(items) == count and items[0].answer == answer
    if items[0].choices and not items[0].contexts:
        assert items[0].choices[items[0].right] == answer
    for item, other in zip(items, task.twin(items, 1), strict=True):
        assert (item.prompt == other.prompt) == (not task.perturbation), (item.prompt, other.prompt)
    for template in task.templates:
        assert items[0].stem in task.phrase(items[0], template).prompt
    assert not task.templates or task.phrase(items[0], task.templates[0]) == items[0]
    assert len(task.templates) in (0, 8)


class Knows:
    """A subject that finds one text likelier than all others, and writes it."""

    def __init__(self, text):
        self.text, self.codec = text, char.fit(["".join(map(chr, range(32, 127))) + "\n", text])

    def score(self, pairs):
        return [np.full(len(a), -0.1 if self.codec.decode(a) == f" {self.text}" else -1.0) for _, a in pairs]

    def complete(self, prompts, length, temperature, seed):
        return [self.codec.encode(f" {self.text}\nmore") for _ in prompts]

    def room(self, length):
        return 10_000


@pytest.mark.parametrize(("name", "text", "metrics"), [
    ("piqa", "twist it", {"piqa_acc": 1, "piqa_acc_norm": 1}), ("piqa", "eat it", {"piqa_acc": 0}),
    ("banking77", "age limit", {"banking77_acc": 0.5}), ("clinc150", "greeting", {"clinc150_acc": 0.5}),
    ("xquad", "the Rome", {"xquad_exact": 1, "xquad_f1": 1}), ("nq_open", "tom", {"nq_exact": 1}),
    ("svamp", "It is 51.0", {"svamp_right": 1}), ("gsm8k", "#### 24", {"gsm8k_flexible": 1, "gsm8k_strict": 1}),
    ("gsm8k", "24", {"gsm8k_flexible": 1, "gsm8k_strict": 0}), ("bbh", "So the answer is No.", {"bbh_exact": 1}),
    ("bfcl", "area(b=4, a=3)", {"bfcl_calls": 1, "bfcl_none": 0}), ("bfcl", "none", {"bfcl_calls": 0, "bfcl_none": 1}),
    ("bfcl", "area(a=3, b=5)", {"bfcl_calls": 0}),
    pytest.param("scitldr", "A works.", {"scitldr_rougel": 1}, marks=pytest.mark.slow),
    ("flores", "Guten Tag", {"flores_chrf": 50})])
def test_answers_are_graded(data, name, text, metrics):
    task = task_of(name, data)
    items = task.items(None, None, 100, 0)
    made = task.run(Knows(text), items, 0, SILENT)
    for metric, expected in metrics.items():
        found = sum(made.values[metric]) / sum(made.weights[metric])
        assert found == pytest.approx(expected) or name == "flores" and found > expected - 5


@pytest.mark.parametrize(("ours", "theirs", "same"), [
    ([{"a": 1}], [{"a": [1, 2]}], True), ([{"a": 3}], [{"a": [1, 2]}], False),
    ([{"a": 1}], [{"a": [1]}, {"b": [1]}], False),
    (("X", "y"), ["x", "Y"], True), ([1], [True], False), ([[1, 2]], [[1, 2]], True), ([{}], [{"a": ["", 1]}], True),
    ("a", ["a"], False)])
def test_values_are_compared_inside_lists(ours, theirs, same):
    assert accepts([{"f": {"x": [theirs]}}], [("f", {"x": ours})]) == same


def test_a_pronoun_s_end_is_scored_after_each_name(data):
    task = task_of("winogrande", data)
    [item] = task.items(None, None, 1, 0)
    assert item.contexts == ("Ann paid Eve because Ann", "Ann paid Eve because Eve") and item.right == 1
    [twin] = task.twin([item], 0)
    assert twin.contexts == ("Eve paid Ann because Ann", "Eve paid Ann because Eve") and twin.right == 0


def test_prompts_and_answers_are_encoded_as_one_text():
    codec = SimpleNamespace(marks={"begin": 0}, end=0, encode_batch=lambda texts: [
        np.array([len(w) for w in t.split(" ")]) for t in texts])
    [(context, answer), (alone, whole)] = benchmark.encode(codec, [("How many  ", " two"), ("", " b c")])
    assert context.tolist() == [3, 4] and answer.tolist() == [0, 0, 3]
    assert alone.tolist() == [0] and whole.tolist() == [0, 1, 1]


def test_worked_examples_come_from_the_training_split(data):
    task = task_of("arc_challenge", data)
    items = task.items(None, None, 1, 0)
    shown, ids = task.with_shots(None, items, 2, 0)
    assert shown[0].prompt.count(" honey\n\n") == 2 and shown[0].prompt.endswith(items[0].prompt) and len(ids) == 2
    with pytest.raises(RequestError, match="there are 2"):
        task.with_shots(None, items, 3, 0)


def test_worked_examples_of_bbh_reason(data):
    task = task_of("bbh", data)
    [item], ids = task.with_shots(None, task.items(None, None, 1, 0), 1, 0)
    assert "So the answer is Yes." in item.prompt and "A: No." not in item.prompt
    assert item.prompt.endswith("Left or right?\nA: Let's think step by step.") and ids == ["cot-prompts #0"]


def test_polarity_s_examples_are_no_questions(data):
    task = task_of("sentence_polarity", data)
    asked, shown = ({item.stem for item in some} for some in (task.read(), task.examples()))
    assert len(asked) + len(shown) == 60 and not asked & shown and shown


def test_numbers_change_with_their_answer(data):
    [item] = task_of("gsm8k", data).items(None, None, 1, 0)
    [twin] = task_of("gsm8k", data).twin([item], 3)
    a, b, c = (int(w) for w in perturb.NUMBER.findall(twin.stem))
    assert twin.suffix == str((a - b) * c) and (a, b, c) != (12, 4, 3)
    assert perturb.calculate("2*(3+4)/7-1") == Fraction(1) and perturb.calculate("1/0") is None
    assert perturb.calculate("2**3") is None and perturb.renumbered("three apples", "3+1", 0) is None


def test_a_typo_keeps_letters_and_ends():
    text = "These neighbouring letters were swapped somewhere in the sentence"
    changed = perturb.typos(text, 0, every=1)
    assert changed != text and sorted(changed) == sorted(text)
    assert all(a[0] == b[0] and a[-1] == b[-1] for a, b in zip(text.split(), changed.split(), strict=True))


def test_words_are_compared_as_squad_does():
    assert words.f1("the tall Tower!", "A tower") == pytest.approx(2 / 3) and words.plain(" The  cat.") == "cat"


def test_a_folder_of_data_is_for_those_who_read_it(tmp_path):
    assert task_of("humaneval", tmp_path).file == tmp_path and task_of("piqa", tmp_path).source == tmp_path
    assert task_of("zero_shot", tmp_path).templates == task_of("zero_shot").templates
    assert task_of("bits_per_byte", tmp_path) is task_of("bits_per_byte")


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(RequestError, match="yonatanbisk"):
        task_of("piqa", tmp_path).items(None, None, 1, 0)
    with pytest.raises(RequestError, match="--data"):
        task_of("piqa").items(None, None, 1, 0)
    (tmp_path / "valid.jsonl").write_text('{"goal": 1}\n{')
    with pytest.raises(RequestError, match="line 2"):
        files.rows(tmp_path, "valid.jsonl")
    (tmp_path / "valid.jsonl").write_text('{"goal": 1}')
    with pytest.raises(RequestError, match="sol1"):
        task_of("piqa", tmp_path).items(None, None, 1, 0)


@pytest.mark.skipif(bool(sandbox.trouble()), reason="needs bubblewrap")
def test_queries_are_judged_by_their_rows(tmp_path):
    tar(tmp_path / "schemas.tar.gz", {"shop/shop.sql": (
        "CREATE SCHEMA s;\nCREATE TABLE s.items (id SERIAL, price int, at TIMESTAMP DEFAULT NOW()\n);\nINSERT INTO "
        "s.items (id, price, at) VALUES (1, 5, NOW() - INTERVAL '2 weeks'), (2, 7, DATE_TRUNC('month', CURRENT_DATE) - "
        "INTERVAL '1 month');")})
    (tmp_path / "questions_gen_sqlite.csv").write_text(
        "db_name,query,question\nshop,SELECT price FROM items WHERE id = 1;SELECT max(price) - 2 FROM items,How much?\n"
        "shop,SELECT nothing FROM nowhere,What?\n")
    task = task_of("text2sql", tmp_path)
    items = task.items(None, None, 10, 0)
    assert len(items) == 1 and items[0].prompt.endswith("-- How much?\nSELECT")
    right = task.outcome(items * 4, ["price FROM items LIMIT 1", "5", "price FROM items", "DROP TABLE items"])
    assert right.values["text2sql_right"] == [1, 1, 0, 0]
