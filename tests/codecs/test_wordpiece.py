"""WordPiece: BERT's ids, the same in every process, and honest about what it loses."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem import codecs
from meristem.codecs import base, wordpiece
from meristem.core.errors import RequestError
from meristem.corpus import find

SOURCES = sorted((find.standard_library()[0] / "asyncio").glob("*.py"))


@pytest.fixture(scope="module")
def codec() -> wordpiece.WordPiece:
    return wordpiece.fit((p.read_text() for p in SOURCES), 700)


@pytest.fixture(scope="module")
def theirs(codec, tmp_path_factory):
    from transformers import PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("codec")
    codec.save(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["[MASK] [CLS]", "The Future's loop"]))
def test_ids_are_those_of_transformers_and_of_the_longest_known_pieces(codec, theirs, text):
    ids = codec.encode(text)
    assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs(text)["input_ids"] == [codec.marks["cls"], *ids, codec.marks["sep"]]
    assert not {codec.marks[role] for role in ("cls", "sep", "mask", "pad")} & set(ids.tolist())
    pair = theirs("a", "b")
    assert pair["token_type_ids"] == [0] * 3 + [1] * 2


def test_words_are_cut_from_the_left(codec):
    tokens = [codec.tokenizer.id_to_token(i) for i in codec.encode("Unreturnable \u754c")]
    assert tokens[-1] == "[UNK]" and all(t.startswith("##") for t in tokens[1:-1]) and len(tokens) > 3
    starts = codec.starts()[codec.encode("Unreturnable \u754c")]
    assert starts.tolist() == [True] + [False] * (len(tokens) - 2) + [True]


def test_it_does_not_give_text_back_and_says_so_where_bytes_are_counted(codec):
    assert codec.decode(codec.encode("Wait  for it.")) == "wait for it."
    base.gives_back(codec, ["wait for it."])
    with pytest.raises(RequestError, match="the wordpiece codec does not give back the text that begins 'Wait"):
        base.gives_back(codec, ["Wait  for it."])


def test_marks_come_first_and_saving_changes_nothing(codec, tmp_path):
    assert codec.marks == {"pad": 0, "unknown": 1, "cls": 2, "sep": 3, "mask": 4, "end": 3} and codec.vocab == 700
    codec.save(tmp_path)
    again = codecs.load(tmp_path)
    assert isinstance(again, wordpiece.WordPiece)
    assert (again.hash, again.marks, again.vocab) == (codec.hash, codec.marks, codec.vocab)
    assert np.array_equal(again.encode("def wait"), codec.encode("def wait"))
    assert again.places("def wait") [0] == (0, 3)


def test_fitting_is_deterministic_across_processes_and_orders(codec):
    code = ("import sys; from pathlib import Path; from meristem.codecs import wordpiece;"
            "print(wordpiece.fit((Path(p).read_text() for p in sys.argv[1:]), 700).hash)")
    run = subprocess.run([sys.executable, "-c", code, *map(str, reversed(SOURCES))], capture_output=True, text=True,
                         check=True, cwd=Path(base.__file__).parents[2])
    assert run.stdout.strip() == codec.hash


def test_case_may_be_kept():
    codec = wordpiece.fit(["Wait for it. wait For it"] * 9, 60, lowercase=False)
    assert codec.decode(codec.encode("Wait For it")) == "Wait For it"


def test_bad_requests():
    with pytest.raises(RequestError, match="needs at least"):
        wordpiece.fit(["the alphabet of this text"], 20)
    with pytest.raises(RequestError, match="no text"):
        wordpiece.fit([""], 300)
