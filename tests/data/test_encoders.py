"""Rows for encoders are what their names say, read back from the tokens."""
import json

import numpy as np
import pytest
import torch

from meristem.codecs import bpe, wordpiece
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.data import encoders, shards
from meristem.data.encoders import Given, source


@pytest.fixture(scope="module")
def words(corpus):
    return wordpiece.fit((d.text for d in corpus.documents("train")), 800)


@pytest.fixture(scope="module")
def given(corpus, words):
    return Given(corpus, words, shards.tokenise(corpus, words).split("train"), 48, (8, 0, 0))


def parts(row, types, length, marks):
    """A and B of a row, without the marks."""
    row, types = row[:length], types[:length]
    assert row[0] == marks["cls"] and row[-1] == marks["sep"] and (np.diff(types) >= 0).all()
    a, b = row[types == 0][1:], row[types == 1]
    assert a[-1] == marks["sep"]
    return a[:-1].tolist(), b[:-1].tolist()


def test_sentence_b_follows_a_in_half_of_the_rows(given, words, corpus):
    found = source("sentence_pairs", given)
    texts = [sum((words.encode(s).tolist() for s in encoders.SENTENCE.split(d.text) if s), [])
             for d in corpus.documents("train")]
    joined = [" ".join(map(str, ids)) for ids in texts]
    checked = 0
    for n in range(0, len(found.rows["tokens"]), 40):
        a, b = parts(*(found.rows[key][n] for key in ("tokens", "types")), found.rows["lengths"][n], words.marks)
        assert a and b and len(a) + len(b) + 3 <= 48
        follows = any(f" {' '.join(map(str, a + b))} " in f" {text} " for text in joined)
        if found.rows["labels"][n] == 0:
            assert follows
        else:
            checked += not follows
    labels = found.rows["labels"]
    assert len(labels) > 500 and 0.45 < labels.mean() < 0.55 and checked > 3
    assert (found.rows["lengths"] == 48).mean() > 0.5
    again = source("sentence_pairs", given)
    assert all(np.array_equal(found.rows[key], again.rows[key]) for key in found.rows)


def test_full_sentences_are_the_text_in_order(given, words):
    found = source("full_sentences", given)
    inside = found.rows["tokens"][:, 1:47]
    assert np.array_equal(inside.flatten(), given.split.tokens[:inside.size])
    assert (found.rows["tokens"][:, [0, 47]] == [words.marks["cls"], words.marks["sep"]]).all()
    assert not found.rows["types"].any()


def test_batches_say_what_is_padding_and_are_a_function_of_the_step(given):
    one, two = (source("sentence_pairs", given) for _ in range(2))
    batch, again = one(3)[0], two(3)[0]
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert batch["tokens"].shape == (8, 49) and batch["weight"].shape == batch["types"].shape == (8, 48)
    assert torch.equal(batch["weight"], 1.0 - batch["segments"]) and batch["labels"].shape == (8,)
    assert (batch["tokens"][:, :-1][batch["weight"] == 0] == given.codec.marks["pad"]).all()
    assert sum(len(b["tokens"]) for b in encoders.held_out(one, 8, 1000)) == 1000 // 49


def rows_of(tmp_path, codec, row, context=16):
    """The source of a corpus with `row` in train."""
    plain = {"words": ["x"], "labels": ["O"]} if "words" in row else {**row, "text": row["text"] + " !"}
    other = {**row, "text": row["text"] + " ?"} if "text" in row else {"words": ["y"], "labels": ["B"]}
    for name, some in (("train", row), ("validation", plain), ("test", other)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(some))
    corpus = labelled(tmp_path, tmp_path / "out")
    split = shards.tokenise(corpus, codec).split("train")
    return source("labels", Given(corpus, codec, split, context, (1, 0, 0)))(0)[0]


def test_a_class_of_a_text(tmp_path, words):
    batch = rows_of(tmp_path, words, {"text": "return self. " * 20, "label": "code"})
    assert batch["labels"].tolist() == [0] and batch["weight"].sum() == 16        # cut to the context
    assert batch["tokens"][0, 15] == words.marks["sep"]


def test_classes_of_words_stand_on_their_first_tokens(tmp_path, words):
    row = {"words": ["Unreturnable", "Rome", "."], "labels": ["B", "O", "O"]}
    batch = rows_of(tmp_path, words, row)
    ids = words.encode("Unreturnable Rome .")
    assert batch["tokens"][0, 1:len(ids) + 1].tolist() == ids.tolist()
    firsts = [1, 1 + len(words.encode("Unreturnable")), len(ids)]
    assert [i for i, label in enumerate(batch["labels"][0].tolist()) if label >= 0] == firsts
    assert batch["labels"][0, firsts].tolist() == [0, 1, 1]                        # B, O


def test_an_answer_stands_where_its_characters_do(tmp_path, words):
    text = "the event loop runs the future"
    row = {"text": text, "question": "what runs", "answer": [text.index("loop"), text.index(" runs")]}
    batch = rows_of(tmp_path, words, row, context=32)
    first, last = batch["labels"][0].tolist()
    assert words.decode(batch["tokens"][0, first:last + 1].numpy()) == "loop"
    assert batch["types"][0, first] == 1 and batch["types"][0, 1] == 0


def test_bad_requests(given, corpus, words, tmp_path):
    with pytest.raises(RequestError, match="set data.codec.name=wordpiece"):
        source("labels", Given(corpus, bpe.fit(["some text"] * 9, 270), given.split, 48, (8, 0, 0)))
    with pytest.raises(RequestError, match="data.corpus=ROWS.jsonl"):
        source("labels", given)
    with pytest.raises(RequestError, match="holds no pair"):
        source("sentence_pairs", Given(corpus, words, given.split, 8, (8, 0, 0)))
    text = "word " * 40 + "end"
    with pytest.raises(RequestError, match="raise train.context"):
        rows_of(tmp_path, words, {"text": text, "question": "q", "answer": [200, 203]})
